"""Handshakes in memory: who gets in, and who does not."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from hmac import digest
from typing import Any

import pytest

from gloompi.errors import AuthenticationError
from gloompi.transport import handshake
from gloompi.transport.handshake import (
    ANSWER_NBYTES,
    HELLO_NBYTES,
    PROOF_NBYTES,
    Flights,
    Session,
    Transport,
    accept,
    dial,
)

TCP = Transport.TCP
ENTROPY = [bytes([rank + 1]) * 32 for rank in range(4)]
STRANGER = "wrong HMAC in its {}: it does not hold the session key"


@pytest.fixture
def session() -> Session:
    return Session(ENTROPY)


class Log:
    """What either side sends during a handshake, and `change` to tamper with it on the way."""

    def __init__(self, change: Callable[[str, bytes], bytes] = lambda flight, sent: sent) -> None:
        self.change = change
        self.sent: dict[str, bytes] = {}

    def carry(self, flight: str, sent: bytes) -> bytes:
        self.sent[flight] = sent
        return self.change(flight, sent)


def run(dialer: Flights, acceptor: Flights, log: Log) -> int:
    """Carry the four flights; return the rank that the acceptor has let in.

    A side that refuses raises AuthenticationError here.
    """
    hello, wanted = next(dialer)
    nothing, wanted_first = next(acceptor)
    assert (nothing, wanted_first, wanted) == (b"", HELLO_NBYTES, ANSWER_NBYTES)
    answer, wanted = acceptor.send(log.carry("hello", hello))
    assert wanted == PROOF_NBYTES
    proof, wanted = dialer.send(log.carry("answer", answer))
    assert wanted == PROOF_NBYTES
    with pytest.raises(StopIteration) as stop:
        acceptor.send(log.carry("proof", proof))
    rank, welcome = stop.value.value
    with pytest.raises(StopIteration):
        dialer.send(log.carry("welcome", welcome))
    return rank


def answered(session: Session, hello: bytes) -> bytes:
    """What an acceptor in a session answers."""
    nonce = bytes(range(32))
    return nonce + session.macs(hello, nonce)[0]


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(AuthenticationError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(("dialer", "acceptor"), [(1, 0), (3, 0), (3, 2)])
def test_a_whole_handshake(session: Session, dialer: int, acceptor: int) -> None:
    log = Log()
    assert run(dial(Session(ENTROPY), dialer, acceptor, TCP), accept(session, acceptor, TCP), log) == dialer
    assert [(flight, len(sent)) for flight, sent in log.sent.items()] == [
        ("hello", 64),
        ("answer", 64),
        ("proof", 32),
        ("welcome", 32),
    ]


def test_flights_are_what_the_protocol_says(session: Session) -> None:
    log = Log()
    run(dial(session, 3, 1, TCP), accept(session, 1, TCP), log)
    hello, answer, proof, welcome = log.sent.values()
    told = sha256(b"gloompi records\0" + b"".join(sha256(record).digest() for record in ENTROPY)).digest()
    key = digest(b"", b"gloompi session key\0" + told, "sha256")
    label = digest(key, b"gloompi session label", "sha256")[:15]
    certificates = bytes(64)
    assert hello[:32] == b"gloompi\x02" + b"\x02" + label + b"\x03\x00\x00\x00" + b"\x01\x00\x00\x00"
    assert answer[32:] + proof == digest(key, b"handshake\0" + certificates + hello + answer[:32], "sha512")
    assert welcome == digest(key, b"welcome\0" + certificates + hello + answer, "sha256")


def test_nonces_are_fresh(session: Session) -> None:
    logs = [Log() for _ in range(3)]
    for log in logs:
        run(dial(session, 1, 0, TCP), accept(session, 0, TCP), log)
    for flight in ("hello", "answer", "proof", "welcome"):
        assert len({log.sent[flight] for log in logs}) == 3


@pytest.mark.parametrize("flight", ["answer", "proof", "welcome"])
@pytest.mark.parametrize("position", [0, 31, -1])
def test_one_flipped_bit_is_noticed(session: Session, flight: str, position: int) -> None:
    def flip(name: str, sent: bytes) -> bytes:
        changed = bytearray(sent)
        changed[position] ^= 1
        return bytes(changed) if name == flight else sent

    told = refusal(lambda: run(dial(session, 1, 0, TCP), accept(session, 0, TCP), Log(flip)))
    assert told == STRANGER.format(flight)


@pytest.mark.parametrize("position", range(32, 64))
def test_a_changed_nonce_in_the_hello_is_noticed_by_the_dialer(session: Session, position: int) -> None:
    def flip(name: str, sent: bytes) -> bytes:
        changed = bytearray(sent)
        changed[position] ^= 1
        return bytes(changed) if name == "hello" else sent

    told = refusal(lambda: run(dial(session, 1, 0, TCP), accept(session, 0, TCP), Log(flip)))
    assert told == STRANGER.format("answer")


# -- hellos that are refused --------------------------------------------------------------------------------------------


def hello_refused(acceptor: Session, rank: int, hello: bytes) -> str:
    flights = accept(acceptor, rank, TCP)
    next(flights)
    return refusal(lambda: flights.send(hello))


def test_hello_of_another_session(session: Session) -> None:
    for other in (ENTROPY[:3], [*ENTROPY[:3], bytes(32)], ENTROPY[::-1]):
        assert hello_refused(session, 0, Session(other).hello(1, 0, TCP)) == "it belongs to another session"


def test_hello_for_another_rank(session: Session) -> None:
    assert hello_refused(session, 1, session.hello(3, 0, TCP)) == "it is meant for rank 0, this is rank 1"


@pytest.mark.parametrize(
    ("dialer", "acceptor"),
    [(2, 2), (1, 2), (0, 2), (4, 2), (0xFFFFFFFF, 2)],
    ids=["own rank", "lower", "lowest", "beyond size", "far beyond"],
)
def test_hello_of_a_rank_that_does_not_dial(session: Session, dialer: int, acceptor: int) -> None:
    told = hello_refused(session, acceptor, session.hello(dialer, acceptor, TCP))
    assert told == f"rank {dialer} does not dial rank {acceptor} in a session of 4"


def test_hello_of_another_version(session: Session) -> None:
    hello = bytearray(session.hello(1, 0, TCP))
    hello[7] = 1
    assert hello_refused(session, 0, bytes(hello)) == "handshake version 1, this is version 2"


@pytest.mark.parametrize(
    ("garbage", "shown"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "b'GET / HT'"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", r"b'\x16\x03\x01\x02\x00\x01\x00\x01'"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "b'SSH-2.0-'"),
        (b"", r"b'\x00\x00\x00\x00\x00\x00\x00\x00'"),
    ],
    ids=["HTTP", "TLS", "SSH", "zeros"],
)
def test_garbage(session: Session, garbage: bytes, shown: str) -> None:
    assert hello_refused(session, 0, garbage.ljust(HELLO_NBYTES, b"\0")) == f"not gloompi: it starts with {shown}"


@pytest.mark.parametrize("sent", Transport)
@pytest.mark.parametrize("came", Transport)
def test_hello_that_came_another_way(session: Session, sent: Transport, came: Transport) -> None:
    flights = accept(session, 0, came)
    next(flights)
    hello = session.hello(1, 0, sent)
    if sent is came:
        flights.send(hello)
    else:
        told = refusal(lambda: flights.send(hello))
        assert told == f"it was sent by another way (number {sent}) than it has come ({came.name})"


# -- those without the key ----------------------------------------------------------------------------------------------


def test_dialer_with_the_label_but_not_the_key(session: Session) -> None:
    other = Session([bytes(32)] * 4)
    hello = session.hello(1, 0, TCP)  # overheard
    flights = accept(session, 0, TCP)
    next(flights)
    answer, _ = flights.send(hello)
    assert refusal(lambda: flights.send(other.macs(hello, answer[:32])[1])) == STRANGER.format("proof")


def test_acceptor_without_the_key(session: Session) -> None:
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    answer = answered(Session([bytes(32)] * 4), hello)
    assert refusal(lambda: flights.send(answer)) == STRANGER.format("answer")


def test_acceptor_that_does_not_welcome(session: Session) -> None:
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    flights.send(answered(session, hello))
    assert refusal(lambda: flights.send(bytes(PROOF_NBYTES))) == STRANGER.format("welcome")


def test_proof_sent_back_is_no_welcome(session: Session) -> None:
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    proof, _ = flights.send(answered(session, hello))
    assert refusal(lambda: flights.send(proof)) == STRANGER.format("welcome")


def test_hello_sent_back_is_no_answer(session: Session) -> None:
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    assert refusal(lambda: flights.send(hello)) == STRANGER.format("answer")


def test_mac_of_the_answer_sent_back_is_no_proof(session: Session) -> None:
    flights = accept(session, 0, TCP)
    next(flights)
    answer, _ = flights.send(session.hello(1, 0, TCP))
    assert refusal(lambda: flights.send(answer[32:])) == STRANGER.format("proof")


def test_answer_of_another_rank_is_refused(session: Session) -> None:
    """A man in the middle leads rank 3's connection for rank 0 to rank 1."""
    dialer, acceptor = dial(session, 3, 0, TCP), accept(session, 1, TCP)
    next(acceptor)
    hello, _ = next(dialer)
    assert refusal(lambda: acceptor.send(hello)) == "it is meant for rank 0, this is rank 1"


def test_replayed_hello_and_proof_are_refused(session: Session) -> None:
    overheard = Log()
    run(dial(session, 1, 0, TCP), accept(session, 0, TCP), overheard)
    flights = accept(session, 0, TCP)
    next(flights)
    flights.send(overheard.sent["hello"])
    assert refusal(lambda: flights.send(overheard.sent["proof"])) == STRANGER.format("proof")


def test_replayed_answer_and_welcome_are_refused(session: Session) -> None:
    overheard = Log()
    run(dial(session, 1, 0, TCP), accept(session, 0, TCP), overheard)
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    assert refusal(lambda: flights.send(overheard.sent["answer"])) == STRANGER.format("answer")
    flights = dial(session, 1, 0, TCP)
    hello, _ = next(flights)
    flights.send(answered(session, hello))
    assert refusal(lambda: flights.send(overheard.sent["welcome"])) == STRANGER.format("welcome")


class Counting:
    """The hmac module, with the calls of `digest` counted."""

    compare_digest = staticmethod(hmac.compare_digest)

    def __init__(self) -> None:
        self.count = 0

    def digest(self, *arguments: Any) -> bytes:
        self.count += 1
        return digest(*arguments)


@pytest.fixture
def hmacs(session: Session, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """The HMACs that are computed from now on."""
    counting = Counting()
    monkeypatch.setattr(handshake, "hmac", counting)
    return counting


def test_a_stranger_costs_one_hmac(session: Session, hmacs: Counting) -> None:
    """Who has overheard a hello; who has not, costs none."""
    hello = session.hello(1, 0, TCP)
    others = [hello[:9] + bytes(15) + hello[24:], bytes(64), hello[:28] + b"\7" + hello[29:], hello[:8] + b"\1" + hello[9:]]
    for stranger, cost in [(hello, 1), *((each, 0) for each in others)]:
        hmacs.count = 0
        flights = accept(session, 0, TCP)
        next(flights)
        told = refusal(lambda flights=flights, hello=stranger: flights.send(flights.send(hello)[0][32:]))  # type: ignore[misc]
        assert (told == STRANGER.format("proof")) == (cost == 1)
        assert hmacs.count == cost


def test_a_rank_costs_two_hmacs_on_either_side(session: Session, hmacs: Counting) -> None:
    run(dial(session, 1, 0, TCP), accept(session, 0, TCP), Log())
    assert hmacs.count == 4


# -- the key ------------------------------------------------------------------------------------------------------------


def test_key_depends_on_every_rank_and_their_order() -> None:
    changed = [[*ENTROPY[:rank], bytes(32), *ENTROPY[rank + 1 :]] for rank in range(4)]
    keys = {Session(entropy)._key for entropy in (ENTROPY, ENTROPY[::-1], *changed)}
    assert len(keys) == 6


def test_key_depends_on_every_byte_of_every_record() -> None:
    records = [bytes(400)] * 2
    changed = [[bytes(400), bytes(each) + b"\1" + bytes(399 - each)] for each in range(400)]
    assert len({Session(each)._key for each in (records, *changed, *(each[::-1] for each in changed))}) == 801


def test_certificates_of_both_ranks_are_in_every_mac() -> None:
    """Of two that disagree on one of them, neither lets the other in."""
    digests = [bytes([10 + rank]) * 32 for rank in range(4)]
    right = Session(ENTROPY, digests=digests)
    run(dial(right, 3, 1, TCP), accept(right, 1, TCP), Log())
    for rank in (1, 3):
        wrong = Session(ENTROPY, digests=[*digests[:rank], bytes(32), *digests[rank + 1 :]])
        for one, other in ((right, wrong), (wrong, right)):
            dialer, acceptor = dial(one, 3, 1, TCP), accept(other, 1, TCP)
            told = refusal(lambda a=dialer, b=acceptor: run(a, b, Log()))  # type: ignore[misc]
            assert told == STRANGER.format("answer")
            hello, answer = one.hello(3, 1, TCP), bytes(ANSWER_NBYTES)
            assert not set(one.macs(hello, answer)) & set(other.macs(hello, answer))
            assert one.welcome(hello, answer) != other.welcome(hello, answer)
    # Another rank's certificate concerns nobody here.
    other = Session(ENTROPY, digests=[digests[0], digests[1], bytes(32), digests[3]])
    run(dial(right, 3, 1, TCP), accept(other, 1, TCP), Log())


def test_key_depends_on_the_secret_too() -> None:
    keys = {Session(entropy, secret)._key for entropy in (ENTROPY, ENTROPY[::-1]) for secret in (b"", b"one", b"another")}
    assert len(keys) == 6


def test_key_is_in_no_text(session: Session) -> None:
    key = session._key
    log = Log(lambda flight, sent: bytes(len(sent)) if flight == "proof" else sent)
    told = [repr(session), str(session), refusal(lambda: run(dial(session, 1, 0, TCP), accept(session, 0, TCP), log))]
    for text in told:
        assert key.hex() not in text
        assert repr(key)[2:-1] not in text
    assert all(key not in sent for sent in log.sent.values())
