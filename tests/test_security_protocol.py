"""docs/security-protocol.md, modelled: flights and signatures are recorded, and tried in every other place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from gloompi.deadline import Deadline
from gloompi.errors import AuthenticationError, RendezvousError
from gloompi.rendezvous.exchange import no_watch
from gloompi.rendezvous.local import LocalExchange, _Board
from gloompi.rendezvous.signing import SIGNATURE_NBYTES, Signed
from gloompi.transport import handshake
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES, Flights, Session, Transport, accept, dial

TOP = Path(__file__).parent.parent
DOCUMENT = (TOP / "docs" / "security-protocol.md").read_text()
SECRET = b"what only the ranks have, 128 bit"

# -- handshakes -------------------------------------------------------------------------------------------------------------

RECORDS = [bytes([rank + 1]) * 400 for rank in range(3)]
CHANGED = [RECORDS[0], RECORDS[1][:-1] + b"\0", RECORDS[2]]
DIGESTS = [bytes([rank + 100]) * 32 for rank in range(3)]

SESSIONS = {
    "session": Session(RECORDS, SECRET, DIGESTS),
    "other records": Session(CHANGED, SECRET, DIGESTS),
    "other order of the records": Session(RECORDS[::-1], SECRET, DIGESTS),
    "another size": Session([*RECORDS, bytes(400)], SECRET, [*DIGESTS, bytes(32)]),
    "another secret": Session(RECORDS, SECRET[:-1], DIGESTS),
    "no secret": Session(RECORDS, b"", DIGESTS),
    "another certificate": Session(RECORDS, SECRET, [bytes([rank + 200]) * 32 for rank in range(3)]),
    "certificates swapped": Session(RECORDS, SECRET, DIGESTS[::-1]),
    "no certificates": Session(RECORDS, SECRET),
}


class Place(NamedTuple):
    """Where a handshake belongs."""

    session: str
    dialer: int
    acceptor: int
    transport: Transport


PLACES = [Place(name, *pair, way) for name in SESSIONS for pair in ((1, 0), (2, 0), (2, 1)) for way in Transport]


class Run(NamedTuple):
    hello: bytes
    answer: bytes
    proof: bytes
    welcome: bytes


Alter = Callable[[str, bytes], bytes]


def faithful(flight: str, sent: bytes) -> bytes:
    return sent


def calling(place: Place) -> Flights:
    return dial(SESSIONS[place.session], place.dialer, place.acceptor, place.transport)


def listening(place: Place) -> Flights:
    flights = accept(SESSIONS[place.session], place.acceptor, place.transport)
    next(flights)
    return flights


def meet(one: Place, other: Place, alter: Alter = faithful) -> Run:
    """What a dialer at one place and an acceptor at another say; raises where one refuses the other."""
    dialer, acceptor = calling(one), listening(other)
    hello, _ = next(dialer)
    answer, _ = acceptor.send(alter("hello", hello))
    proof, _ = dialer.send(alter("answer", answer))
    with pytest.raises(StopIteration) as stop:
        acceptor.send(alter("proof", proof))
    who, welcome = stop.value.value
    assert who == one.dialer
    with pytest.raises(StopIteration):
        dialer.send(alter("welcome", welcome))
    return Run(hello, answer, proof, welcome)


def refused(action: Callable[..., object], *arguments: object) -> bool:
    try:
        action(*arguments)
    except AuthenticationError:
        return True
    return False


@pytest.fixture(scope="module")
def recorded() -> dict[Place, list[Run]]:
    """Two handshakes of each place."""
    return {place: [meet(place, place) for _ in range(2)] for place in PLACES}


def pieces(runs: Iterable[Run]) -> dict[int, set[bytes]]:
    """Everything of some handshakes that has the length of a flight: whole flights, and halves of them."""
    flights = {flight for run in runs for flight in run}
    halves = {each[start : start + 32] for each in flights if len(each) == 64 for start in (0, 32)}
    return {64: {each for each in flights if len(each) == 64}, 32: {each for each in flights if len(each) == 32} | halves}


def test_flights_have_two_lengths() -> None:
    """So what is tried below is all that there is to try."""
    assert {HELLO_NBYTES, ANSWER_NBYTES, PROOF_NBYTES} == {64, 32}


def test_carried_between_places_as_they_are_said() -> None:
    """Somebody carries each flight of a dialer to each acceptor, and back: only those that belong together meet."""
    met = 0
    for one, other in product(PLACES, PLACES):
        together = one._replace(dialer=0) == other._replace(dialer=0)  # an acceptor is there for all its dialers
        assert refused(meet, one, other) != together, (one, other)
        met += together
    assert met == len(SESSIONS) * len(Transport) * (2 * 2 + 1)


def test_replayed_to_an_acceptor(recorded: dict[Place, list[Run]]) -> None:
    """Every recorded hello; where it is answered, whatever may be a proof, of all handshakes with its label."""
    everything = [run for runs in recorded.values() for run in runs]
    answered = 0
    for place in PLACES:
        for hello in pieces(everything)[64]:
            if refused(listening(place).send, hello):
                continue
            answered += 1  # sessions that differ in certificates alone have one label
            for proof in pieces(run for run in everything if run.hello[:24] == hello[:24])[32]:
                flights = listening(place)
                flights.send(hello)
                assert refused(flights.send, proof)
            for start in (0, 32):  # its own answer, reflected
                flights = listening(place)
                answer, _ = flights.send(hello)
                assert refused(flights.send, answer[start : start + 32])
    assert answered > 2 * len(PLACES)


def test_replayed_to_a_dialer(recorded: dict[Place, list[Run]]) -> None:
    """Everything that has the length of an answer, and its own hello."""
    everything = pieces(run for runs in recorded.values() for run in runs)
    for place in PLACES:
        for answer in everything[64]:
            flights = calling(place)
            next(flights)
            assert refused(flights.send, answer)
        flights = calling(place)
        hello, _ = next(flights)
        assert refused(flights.send, hello)


OWN: dict[str, list[Callable[[list[bytes]], bytes]]] = {
    "hello": [],
    "answer": [lambda said: said[0], lambda said: said[1][32:] + said[1][:32]],
    "proof": [lambda said: said[0][32:], lambda said: said[1][:32], lambda said: said[1][32:]],
    "welcome": [lambda said: said[0][32:], lambda said: said[1][:32], lambda said: said[1][32:], lambda said: said[2]],
}
"""What has been said in a handshake before, in the place of a flight."""


@pytest.mark.parametrize("flight", OWN)
def test_put_into_a_handshake_that_goes_on(flight: str, recorded: dict[Place, list[Run]]) -> None:
    """In the place of one flight, another of its length: of another time, place or direction, or of this very handshake."""
    everything = pieces(run for runs in recorded.values() for run in runs)
    length = HELLO_NBYTES if flight in ("hello", "answer") else PROOF_NBYTES

    def put(place: Place, choose: Callable[[list[bytes]], bytes]) -> None:
        said: list[bytes] = []

        def alter(name: str, sent: bytes) -> bytes:
            said.append(sent)
            return choose(said) if name == flight else sent

        meet(place, place, alter)

    for place in PLACES:
        others = everything if place.session == "session" else pieces(recorded[place])
        for other in others[length]:
            assert refused(put, place, lambda said, other=other: other), place
        for choose in OWN[flight]:
            assert refused(put, place, choose), place


@pytest.mark.parametrize("crossed", ["answer", "proof", "welcome"])
def test_two_handshakes_of_one_place_at_once(crossed: str) -> None:
    """Somebody crosses their flights."""
    for place in PLACES:
        dialers, acceptors = [calling(place) for _ in range(2)], [listening(place) for _ in range(2)]
        said = [acceptor.send(next(dialer)[0])[0] for dialer, acceptor in zip(dialers, acceptors, strict=True)]
        refusing = dialers
        if crossed != "answer":
            said = [dialer.send(answer)[0] for dialer, answer in zip(dialers, said, strict=True)]
            refusing = acceptors
        if crossed == "welcome":
            welcomes = []
            for acceptor, proof in zip(acceptors, said, strict=True):
                with pytest.raises(StopIteration) as stop:
                    acceptor.send(proof)
                welcomes.append(stop.value.value[1])
            said, refusing = welcomes, dialers
        for flights, flight in zip(refusing, said[::-1], strict=True):
            assert refused(flights.send, flight)


def test_the_same_flights_do_open_the_door(recorded: dict[Place, list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a nonce that is not fresh: so what is recorded is what the acceptor wants, and the tests above are some."""
    place = PLACES[0]
    run = recorded[place][0]
    monkeypatch.setattr(handshake, "urandom", lambda nbytes: run.answer[:nbytes])
    flights = listening(place)
    assert flights.send(run.hello)[0] == run.answer
    with pytest.raises(StopIteration) as stop:
        flights.send(run.proof)
    assert stop.value.value == (place.dialer, run.welcome)


# -- signatures -------------------------------------------------------------------------------------------------------------


class Meeting(NamedTuple):
    """Where a record belongs."""

    where: bytes
    size: int
    time: int


MEETINGS = [
    Meeting(where, size, time)
    for where in (b"job 7/ " + b"0" * 32, b"job 7/ " + b"1" * 32, b"job 8/ " + b"0" * 32, b"")
    for size in (2, 3)
    for time in range(2)
]
ROUNDS = 3


Altering = Callable[[int, int, list[bytes]], list[bytes]]
"""What a rank gets in a round, of what was given."""


def speak(meeting: Meeting, alter: Altering) -> list[list[list[bytes]] | RendezvousError]:
    """What each rank gets in some rounds, as it comes, or why it refuses it."""
    board = _Board(meeting.size)

    class Carried:
        def __init__(self, exchange: LocalExchange) -> None:
            self.rank, self.size, self._exchange, self._round = exchange.rank, exchange.size, exchange, -1
            self.came: list[list[bytes]] = []

        def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
            self._round += 1
            found = alter(self.rank, self._round, self._exchange(record, deadline, watch))
            self.came.append(found)
            return found

    def rank(number: int) -> list[list[bytes]] | RendezvousError:
        carried = Carried(LocalExchange(number, board))
        exchange = Signed(carried, SECRET, meeting.where)
        try:
            for each in range(ROUNDS):
                exchange(b"%d: what rank %d says at %d" % (each, number, meeting.time), Deadline(0.2), no_watch)
        except RendezvousError as exc:
            return exc
        return carried.came

    with ThreadPoolExecutor(meeting.size) as pool:
        return list(pool.map(rank, range(meeting.size)))


def test_signatures_mean_something_in_one_place_alone() -> None:
    """Every signed record of every meeting, round and rank, to every rank, in every round, in the place of every rank's."""
    spoken = {meeting: speak(meeting, lambda rank, number, records: records)[0] for meeting in MEETINGS}
    signed = {
        (meeting, number, rank): record
        for meeting, came in spoken.items()
        for number, records in enumerate(came)  # type: ignore[arg-type]
        for rank, record in enumerate(records)
    }
    assert len(set(signed.values())) == len(signed) == 4 * 2 * ROUNDS * (2 + 3)
    for meeting in MEETINGS[::2]:
        for number, rank in product(range(ROUNDS), range(1, meeting.size)):
            exchange = Signed(LocalExchange(0, _Board(meeting.size)), SECRET, meeting.where)
            for each in range(number):  # as far as this meeting has come
                came = iter([spoken[meeting][each]])  # type: ignore[index]
                exchange._exchange = lambda record, deadline, watch, came=came: next(came)  # type: ignore[misc]
                exchange(spoken[meeting][each][0][SIGNATURE_NBYTES:], Deadline(1.0), no_watch)  # type: ignore[index]
            for place, record in signed.items():
                belongs = place[1:] == (number, rank) and (
                    place[0] == meeting or (number == 0 and place[0][:2] == meeting[:2])  # another time: see below
                )
                try:
                    exchange._verified(rank, record)
                except RendezvousError:
                    assert not belongs, (place, meeting, number, rank)
                else:
                    assert belongs, (place, meeting, number, rank)


@pytest.mark.parametrize("meeting", [each for each in MEETINGS if each.time == 0])
@pytest.mark.parametrize("number", range(ROUNDS))
def test_records_of_another_time(number: int, meeting: Meeting) -> None:
    """What is brought back of the first round, where a meeting has no session, is found out in the next; others at once."""
    (before, *_) = speak(meeting._replace(time=1), lambda rank, number, records: records)
    assert isinstance(before, list)

    def alter(rank: int, at: int, records: list[bytes]) -> list[bytes]:
        return [records[0], before[number][1], *records[2:]] if (rank, at) == (0, number) else records

    found = speak(meeting, alter)
    assert isinstance(found[0], RendezvousError)
    expected = "its record does not follow from what this rank has received before: somebody alters what the ranks exchange"
    assert (found[0].reason, found[0].rank) == (expected, 1)


def test_the_document_has_every_label() -> None:
    sources = [TOP / "gloompi" / name for name in ("rendezvous/signing.py", "transport/handshake.py")]
    code = "".join(path.read_text() for path in sources)
    labels = {text.removesuffix("\\0") for text in re.findall(r'b"([a-z ]{4,}(?:\\0)?)"', code)}
    assert labels >= {"gloompi record", "gloompi session key", "handshake", "welcome"}
    for label in labels:
        assert f"`{label}" in DOCUMENT, label
    assert f"`gloompi\\x{handshake._MAGIC[7]:02x}`" in DOCUMENT
    for transport in Transport:
        assert f"{int(transport)} {'AF_UNIX' if transport is Transport.UNIX else 'TCP'}" in DOCUMENT
