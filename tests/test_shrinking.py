"""The agreement on who goes on, over a network that a test drives step by step; words in a stream; remnants of pairs."""

from __future__ import annotations

import random
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from gloompi.deadline import Deadline
from gloompi.engine.remnants import Remnants, Word, _Scanner, next_marker
from gloompi.engine.shrinking import Agreement
from gloompi.errors import ContextClosedError, OperationTimeoutError
from gloompi.transport.endpoint import Peer
from gloompi.transport.frames import HEADER_NBYTES, Kind, pack_header
from gloompi.transport.pair import STAGING_NBYTES, Pair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

MARKER = bytes(range(100, 132))
PEERS = [Peer(rank, "node7", 4000 + rank, "unix", f"@gloompi-{rank}") for rank in range(6)]
END = None


# -- a network that is driven step by step --------------------------------------------------------------------------------


class Crash(BaseException):
    """Ends a rank at once."""


class Network:
    """Ranks whose agreements run one at a time, in turns that a seed decides; a turn ends with each word that is said.

    Parameters
    ----------
    size : int
    seed : int
    dead : collection of int
        Who has ended before anybody begins.
    crashes : dict of int to int
        By rank: at which of its turns it ends.
    cut : tuple of int, optional
        The turn of all, and two ranks that lose their connection then.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        dead: Collection[int] = (),
        crashes: dict[int, int] | None = None,
        cut: tuple[int, int, int] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.crashes = crashes or {}
        self.cut = cut
        self.ways: dict[tuple[int, int], deque[Word | None]] = {
            (a, b): deque() for a in range(size) for b in range(size) if a != b
        }
        for rank in dead:
            self.end(rank, range(size))
        self.lists: dict[int, list[int]] = {}
        self.excluded: set[int] = set()
        self.crashed: set[int] = set()
        self.failures: list[BaseException] = []
        self._over = threading.Semaphore(0)
        self.ranks = [Scripted(self, rank, size) for rank in range(size) if rank not in dead]

    def end(self, rank: int, others: Iterable[int], orderly: bool = False) -> None:
        """End the streams between a rank and others; unless it is `orderly`, some of what is on its way does not arrive."""
        for other in others:
            for way in ((rank, other), (other, rank)):
                queue = self.ways.get(way)
                if queue is None or (queue and queue[-1] is END):
                    continue
                for _ in range(0 if orderly else self.random.randrange(len(queue) + 1)):
                    queue.pop()
                queue.append(END)

    def run(self) -> None:
        """Let all ranks come to their end."""
        left = list(self.ranks)
        turns = 0
        while left and not self.failures:
            able = [each for each in left if each.able()]
            if not able:
                self.failures.append(AssertionError(f"ranks {[each.rank for each in left]} wait for ever"))
                for each in left:
                    each.stop()
                break
            turns += 1
            if self.cut is not None and self.cut[0] == turns:
                self.end(self.cut[1], [self.cut[2]])
                continue
            each = self.random.choice(able)
            each.turn()
            if each.over:
                left.remove(each)
        for each in self.ranks:
            if not each.over:
                each.stop()
            each.thread.join(10)
        if self.failures:
            raise self.failures[0]


class Scripted:
    """Stands for the `Remnants` of one rank, which runs in a thread of its own whenever it has the turn."""

    def __init__(self, network: Network, rank: int, size: int) -> None:
        self.network, self.rank, self.size = network, rank, size
        self.ranks = set(range(size)) - {rank}
        self.gone: set[int] = set()
        self.heard: set[int] = set()
        self.unsent: set[int] = set()
        self.words: dict[int, deque[Word]] = {other: deque() for other in self.ranks}
        self.over = False
        self._closed: set[int] = set()  # whose decision has come: what follows is not for us
        self._turns = 0
        self._listening = self._stopped = False
        self._mine, self._given = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    # what the network does

    def able(self) -> bool:
        return not self._listening or next(self._waiting(), None) is not None

    def turn(self) -> None:
        self._mine.release()
        assert self._given.acquire(timeout=20)

    def stop(self) -> None:
        self._stopped = True
        self.turn()

    # what the agreement sees

    def say(self, rank: int, word: Word) -> None:
        assert rank in self.ranks
        self._pause()
        queue = self.network.ways[self.rank, rank]
        if not queue or queue[-1] is not END:
            assert not (queue and queue[-1].kind == Kind.DECIDED), "something is said behind the decision"
            queue.append(word)

    def listen(self, seconds: float | None) -> None:
        self._listening = True
        self._pause()
        self._listening = False
        waiting = list(self._waiting())
        for other in self.network.random.sample(waiting, self.network.random.randint(1, len(waiting))):
            queue = self.network.ways[other, self.rank]
            for _ in range(self.network.random.randint(1, len(queue))):
                word = queue.popleft()
                if word is END:
                    self.gone.add(other)
                    self.ranks.discard(other)
                    break
                self.heard.add(other)
                self.words[other].append(word)
                if word.kind == Kind.DECIDED:
                    self._closed.add(other)
                    break

    def _waiting(self) -> Iterator[int]:
        return (other for other in sorted(self.ranks - self._closed) if self.network.ways[other, self.rank])

    def _pause(self) -> None:
        self._given.release()
        self._mine.acquire()
        self._turns += 1
        if self._stopped or self.network.crashes.get(self.rank) == self._turns:
            raise Crash

    def _run(self) -> None:
        network, everybody = self.network, range(self.size)
        self._mine.acquire()
        try:
            if self._stopped:
                return
            found = Agreement(self, self.rank, PEERS, Deadline(None)).reach(everybody)  # type: ignore[arg-type]
            network.lists[self.rank] = found
            network.end(self.rank, set(everybody) - set(found), orderly=True)
        except Crash:
            network.crashed.add(self.rank)
            network.end(self.rank, everybody)
        except ContextClosedError:
            network.excluded.add(self.rank)
            network.end(self.rank, everybody, orderly=True)
        except BaseException as exc:
            network.failures.append(exc)
        finally:
            self.over = True
            self._given.release()


def _assert_agreed(network: Network) -> None:
    lists = list(network.lists.values())
    assert all(each == lists[0] for each in lists), network.lists
    assert not lists or set(network.lists) <= set(lists[0]), network.lists


@pytest.mark.parametrize("size", range(1, 7))
def test_agreement_without_further_losses_is_on_all_that_are_alive(size: int) -> None:
    for seed in range(20):
        dead = random.Random(seed).sample(range(size), random.Random(seed).randrange(size))
        network = Network(size, seed, dead)
        network.run()
        alive = [rank for rank in range(size) if rank not in dead]
        assert network.lists == dict.fromkeys(alive, alive)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_agreement_while_a_rank_dies_at_each_of_its_turns(size: int) -> None:
    for victim in range(size):
        for turn in range(1, 40):
            crashed = False
            for seed in range(5):
                network = Network(size, 1000 * turn + seed, crashes={victim: turn})
                network.run()
                _assert_agreed(network)
                assert not network.excluded
                assert set(network.lists) == set(range(size)) - network.crashed
                crashed |= bool(network.crashed)
            if not crashed:
                break
        assert turn > 1


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_agreement_while_several_ranks_die(size: int) -> None:
    draw = random.Random(size)
    for seed in range(300):
        dead = set(draw.sample(range(size), draw.randrange(2)))
        victims = draw.sample(range(size), draw.randrange(1, size))
        network = Network(size, seed, dead, {victim: draw.randrange(1, 5 * size) for victim in victims})
        network.run()
        _assert_agreed(network)
        assert not network.excluded
        assert set(network.lists) == set(range(size)) - dead - network.crashed
        for found in network.lists.values():
            assert not dead & set(found)


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_agreement_while_a_connection_breaks_between_two_that_live(size: int) -> None:
    draw = random.Random(size)
    for seed in range(300):
        a, b = draw.sample(range(size), 2)
        network = Network(size, seed, cut=(draw.randrange(1, 5 * size), a, b))
        network.run()
        _assert_agreed(network)
        assert network.excluded <= {a, b}
        assert set(network.lists) == set(range(size)) - network.excluded


def test_agreement_times_out_and_names_who_is_silent() -> None:
    with _remnants(0, 1, 2) as (remnants, ends):
        remnants.wake()
        ends[1].sendall(Word(Kind.VIEW, 1, 0b111).pack(MARKER, 1))
        with pytest.raises(OperationTimeoutError) as caught:
            Agreement(remnants, 0, PEERS, Deadline(0.05)).reach(range(3))
        assert str(caught.value) == (
            "shrink timed out after 0.1 s: no word from rank 2 (node7, pid 4002, unix @gloompi-2): "
            "all survivors must call it"
        )


def test_agreement_does_not_listen_to_ranks_of_other_contexts() -> None:
    """They share the connections, and agree among themselves."""
    with _remnants(0, 1, 2) as (remnants, ends):
        remnants.wake()
        ends[1].sendall(Word(Kind.DECIDED, 1, 0b010).pack(MARKER, 1))
        ends[2].sendall(Word(Kind.VIEW, 1, 0b101).pack(MARKER, 1) + Word(Kind.DECIDED, 1, 0b101).pack(MARKER, 1))
        assert Agreement(remnants, 0, PEERS, Deadline(10)).reach([0, 2]) == [0, 2]
        with pytest.raises(BlockingIOError):
            ends[1].recv(1, socket.MSG_DONTWAIT)


def test_agreement_of_the_others_excludes_this_rank() -> None:
    with _remnants(0, 1, 2) as (remnants, ends):
        remnants.wake()
        ends[1].sendall(Word(Kind.VIEW, 1, 0b110).pack(MARKER, 1))
        ends[2].sendall(Word(Kind.VIEW, 1, 0b110).pack(MARKER, 1))
        with pytest.raises(ContextClosedError) as caught:
            Agreement(remnants, 0, PEERS, Deadline(10)).reach(range(3))
        assert str(caught.value) == "another rank has lost the connection to this one, and the others go on without it"


# -- words in a stream ----------------------------------------------------------------------------------------------------


def _scanner(told: Callable[[bytes], None], aborted: Callable[[], None] = lambda: None) -> _Scanner:
    return _Scanner(MARKER, HEADER_NBYTES + 1, memoryview(bytearray(65536)), told, aborted)


def _words(number: int) -> list[Word]:
    return [Word(Kind.VIEW, each, 0b111 - each % 3) for each in range(1, number)] + [Word(Kind.DECIDED, number, 0b101)]


@pytest.mark.parametrize("garbage", [b"", b"x", MARKER[:31], MARKER[:7] * 9, bytes(1000), MARKER[1:] + MARKER[:1]])
def test_scanner_finds_words_behind_garbage_cut_at_every_position(garbage: bytes) -> None:
    words = _words(3)
    stream = garbage + b"".join(word.pack(MARKER, 1) for word in words)
    for cut in range(len(stream) + 1):
        told: list[bytes] = []
        scanner = _scanner(told.append)
        for piece in (stream[:cut], stream[cut:]):
            if piece:
                scanner.feed(memoryview(piece))
        assert [Word.unpack(packed) for packed in told] == words


def test_scanner_finds_words_that_come_byte_by_byte() -> None:
    told: list[bytes] = []
    scanner = _scanner(told.append)
    for byte in bytes(100) + b"".join(word.pack(MARKER, 1) for word in _words(4)):
        scanner.window()[0] = byte
        scanner.advance(1)
    assert [Word.unpack(packed) for packed in told] == _words(4)


@pytest.mark.parametrize("garbage", [0, 1, 63, 64, 5000])
def test_scanner_takes_nothing_behind_the_decision(garbage: int) -> None:
    first, *words = _words(3)
    told: list[bytes] = []
    scanner = _scanner(told.append)
    scanner.feed(memoryview(bytes(garbage) + first.pack(MARKER, 1)))
    stream = b"".join(word.pack(MARKER, 1) for word in words) + b"for the next engine"
    while Word.unpack(told[-1]) != words[-1]:
        window = scanner.window()
        taken = stream[: len(window)]
        stream = stream[len(taken) :]
        window[: len(taken)] = taken
        scanner.advance(len(taken))
    assert stream == b"for the next engine"


def test_scanner_notes_an_abort_cut_at_every_position() -> None:
    word = Word(Kind.VIEW, 1, 0b11)
    stream = b"x" * 40 + pack_header(Kind.ABORT, 0, 0, 30, MARKER) + b"y" * 30 + word.pack(MARKER, 1)
    for cut in range(1, len(stream)):
        told: list[bytes] = []
        aborted: list[bool] = []
        scanner = _scanner(told.append, lambda aborted=aborted: aborted.append(True))
        scanner.feed(memoryview(stream[:cut]))
        scanner.feed(memoryview(stream[cut:]))
        assert ([Word.unpack(packed) for packed in told], aborted) == ([word], [True])


@pytest.mark.parametrize("position", [1, 8, 16, 24, HEADER_NBYTES])
def test_word_that_was_damaged_is_none(position: int) -> None:
    word = Word(Kind.VIEW, 7, 0b1011)
    packed = bytearray(word.pack(MARKER, 2))
    assert Word.unpack(bytes(packed)) == word
    packed[position] ^= 0x40
    assert Word.unpack(bytes(packed)) is None


def test_next_marker_depends_on_who_goes_on() -> None:
    markers = {next_marker(MARKER, ranks) for ranks in ([0, 1], [0, 2], [0, 1, 2])}
    assert len(markers) == 3
    assert all(len(marker) == 32 for marker in markers)


# -- remnants of pairs ----------------------------------------------------------------------------------------------------


class _Engine:
    """Takes what a pair reports before it is diverted."""

    def frame(self, *_: Any) -> None:
        return None

    def lost(self, *_: Any) -> None:
        raise AssertionError("lost")

    def watch(self, *_: Any) -> None:
        pass


class _remnants:
    """Remnants of the pairs to some ranks, over AF_UNIX, and the peers' ends."""

    def __init__(
        self, rank: int, *others: int, seconds: float = 10.0, waiting: int = 0, aborts: Collection[int] = ()
    ) -> None:
        staging = memoryview(bytearray(STAGING_NBYTES))
        self.ends: dict[int, socket.socket] = {}
        pairs = []
        for other in others:
            near, far = socket.socketpair()
            near.setblocking(False)
            self.ends[other] = far
            pairs.append(Pair(near, PEERS[other], _Engine(), 0, staging))  # type: ignore[arg-type]
            if waiting:
                pairs[-1].write(pack_header(Kind.DATA, 0, 0, waiting), memoryview(bytes(waiting)))
            if other in aborts:
                far.sendall(pack_header(Kind.ABORT, 0, 0, 2, MARKER) + b"{}")
        self.remnants = Remnants(pairs, MARKER, rank + len(others) + 1)
        self.remnants.settle(Deadline(seconds))

    def __enter__(self) -> tuple[Remnants, dict[int, socket.socket]]:
        return self.remnants, self.ends

    def __exit__(self, *_: object) -> None:
        self.remnants.close()
        for end in self.ends.values():
            end.close()


def test_remnants_close_what_a_silent_peer_does_not_take() -> None:
    with _remnants(0, 1, seconds=0.05, waiting=1 << 22) as (remnants, ends):
        assert remnants.ranks == set()
        while ends[1].recv(1 << 20):
            pass


def test_remnants_keep_what_a_peer_that_has_aborted_does_not_take() -> None:
    """It reads nothing until it shrinks; then the rest of what waited is not sent, and words are."""
    with _remnants(0, 1, waiting=1 << 22, aborts=[1]) as (remnants, ends):
        assert remnants.ranks == {1}
        remnants.wake()
        assert remnants.unsent == set()
        ends[1].setblocking(False)
        with suppress(BlockingIOError):
            while True:
                assert ends[1].recv(1 << 20)
        word = Word(Kind.VIEW, 1, 0b11)
        remnants.say(1, word)
        assert Word.unpack(ends[1].recv(1000)) == word


class _Breaking(_Engine):
    """Breaks while it is told of a frame."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def frame(self, pair: Pair, *_: Any) -> None:
        self.remnants = Remnants([pair], MARKER, 2)
        self.remnants.settle(self._deadline)


def test_remnants_take_at_once_what_came_behind_the_frame_that_breaks() -> None:
    """The peer has aborted too and reads nothing: nobody may wait for it to take what waits to be sent."""
    near, far = socket.socketpair()
    near.setblocking(False)
    engine = _Breaking(Deadline(20))
    pair = Pair(near, PEERS[1], engine, 0, memoryview(bytearray(STAGING_NBYTES)))  # type: ignore[arg-type]
    with far:
        pair.write(pack_header(Kind.DATA, 0, 0, 1 << 22), memoryview(bytes(1 << 22)))
        word = Word(Kind.VIEW, 1, 0b11)
        far.sendall(
            pack_header(Kind.WAITING, 0, 0, 0) + pack_header(Kind.ABORT, 0, 0, 2, MARKER) + b"{}" + word.pack(MARKER, 1)
        )
        pair.receive()
        assert not engine._deadline.expired()
        assert (engine.remnants.ranks, list(engine.remnants.words[1])) == ({1}, [word])
        engine.remnants.close()


@pytest.mark.skipif(find_spec("cryptography") is None, reason="needs cryptography")
def test_remnants_take_at_once_what_came_with_the_frame_that_breaks_and_is_still_sealed() -> None:
    """Three records, which one read takes from the socket."""
    from encrypted import encrypt

    from gloompi.transport.tls import TlsPair

    near, far = socket.socketpair()
    ours, theirs = encrypt(near, far)
    engine = _Breaking(Deadline(20))
    pair = TlsPair(ours, PEERS[1], engine, 0, memoryview(bytearray(STAGING_NBYTES)))  # type: ignore[arg-type]
    with far:
        pair.write(pack_header(Kind.DATA, 0, 0, 1 << 22), memoryview(bytes(1 << 22)))
        word = Word(Kind.VIEW, 1, 0b11)
        for data in (
            pack_header(Kind.WAITING, 0, 0, 0),
            pack_header(Kind.ABORT, 0, 0, 2, MARKER) + b"{}",
            word.pack(MARKER, 1),
        ):
            theirs.tls.write(data)
        far.sendall(theirs.outgoing.read())
        pair.receive()
        assert not engine._deadline.expired()
        assert (engine.remnants.ranks, list(engine.remnants.words[1])) == ({1}, [word])
        engine.remnants.close()


def test_remnants_notice_that_the_peer_whose_frame_breaks_resets_the_connection() -> None:
    """What it has not read it will never acknowledge."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    engine = _Breaking(Deadline(20))
    pair = Pair(near, replace(PEERS[1], transport="tcp"), engine, 0, memoryview(bytearray(STAGING_NBYTES)))  # type: ignore[arg-type]
    pair.write(pack_header(Kind.DATA, 0, 0, 1 << 24), memoryview(bytes(1 << 24)))
    far.sendall(pack_header(Kind.WAITING, 0, 0, 0))
    reset = threading.Timer(0.1, far.close)
    reset.start()
    pair.receive()
    reset.join()
    assert not engine._deadline.expired()
    assert (engine.remnants.ranks, engine.remnants.gone) == (set(), {1})


def test_remnants_hand_over_an_ended_stream_for_a_rank_that_has_gone() -> None:
    with _remnants(0, 1, 2) as (remnants, ends):
        remnants.wake()
        ends[1].close()
        remnants.listen(10)
        assert (remnants.gone, remnants.ranks) == ({1}, {2})
        gone, living = remnants.take([1, 2])
        assert isinstance(gone, socket.socket)
        assert isinstance(living, socket.socket)
        assert gone.recv(1) == b""
        ends[2].sendall(b"x")
        assert living.recv(1) == b"x"
        gone.close()
        living.close()


def test_remnants_lose_a_peer_whose_word_is_damaged() -> None:
    packed = bytearray(Word(Kind.VIEW, 1, 0b11).pack(MARKER, 1))
    packed[-1] ^= 1
    with _remnants(0, 1) as (remnants, ends):
        remnants.wake()
        ends[1].sendall(packed + packed)
        remnants.listen(10)
        assert (remnants.gone, remnants.ranks, remnants.heard) == ({1}, set(), set())


def test_remnants_take_nothing_behind_a_decision() -> None:
    with _remnants(0, 1) as (remnants, ends):
        remnants.wake()
        ends[1].sendall(Word(Kind.VIEW, 1, 0b11).pack(MARKER, 1))
        remnants.listen(10)
        ends[1].sendall(Word(Kind.DECIDED, 1, 0b11).pack(MARKER, 1) + b"for the next engine")
        remnants.listen(10)
        remnants.listen(0)
        assert [word.kind for word in remnants.words[1]] == [Kind.VIEW, Kind.DECIDED]
        (stream,) = remnants.take([1])
        assert isinstance(stream, socket.socket)
        assert stream.recv(100) == b"for the next engine"
        stream.close()
