"""MPI's matching rules, on receives and messages named by a letter."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from effort import Noticed, assert_linear
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gloompi.engine.channel import Channel
from gloompi.engine.matching import Arrival, Matcher, Probe
from gloompi.engine.operation import ANY_SOURCE, ANY_TAG, Receive

CHANNEL = Channel(0, False)


def receive(source: int, tag: int, nbytes: int = 8) -> Receive:
    return Receive(CHANNEL, source, tag, memoryview(bytearray(nbytes)), nbytes, bytes(32))


def arrival(source: int, tag: int, payload: bytes | None = b"") -> Arrival:
    early = Arrival(source, tag, len(payload or b""), bytes(32), announced=payload is None)
    if payload:
        early.feed(memoryview(payload))
    return early


@pytest.fixture
def matcher() -> Matcher:
    return Matcher()


def post(matcher: Matcher, *wanted: tuple[int, int]) -> list[Receive]:
    """Post receives that find no early message."""
    receives = [receive(source, tag) for source, tag in wanted]
    assert [matcher.post(each) for each in receives] == [None] * len(receives)
    return receives


def keep(matcher: Matcher, *came: tuple[int, int]) -> list[Arrival]:
    """Keep messages that no receive wants."""
    arrivals = [arrival(source, tag) for source, tag in came]
    for each in arrivals:
        assert matcher.match(each.source, each.tag) is None
        matcher.keep(each)
    return arrivals


# -- receives that are posted first -------------------------------------------------------------------------------------


def test_nothing_matches_in_an_empty_matcher(matcher: Matcher) -> None:
    assert matcher.match(0, 0) is None
    assert matcher.posted() == []


def test_source_and_tag_both_count(matcher: Matcher) -> None:
    (a,) = post(matcher, (1, 7))
    assert matcher.match(1, 8) is None
    assert matcher.match(2, 7) is None
    assert matcher.match(7, 1) is None
    assert matcher.match(1, 7) is a
    assert matcher.match(1, 7) is None


def test_receives_match_in_the_order_of_posting(matcher: Matcher) -> None:
    a, b, c = post(matcher, (1, 7), (1, 7), (1, 7))
    assert [matcher.match(1, 7) for _ in range(4)] == [a, b, c, None]


@pytest.mark.parametrize("wild", [(ANY_SOURCE, 7), (1, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
def test_wildcard_admits(matcher: Matcher, wild: tuple[int, int]) -> None:
    (a,) = post(matcher, wild)
    assert matcher.match(1, 7) is a
    assert matcher.match(1, 7) is None


@pytest.mark.parametrize(("wild", "came"), [((ANY_SOURCE, 7), (1, 8)), ((1, ANY_TAG), (2, 7))])
def test_wildcard_does_not_admit_everything(matcher: Matcher, wild: tuple[int, int], came: tuple[int, int]) -> None:
    (a,) = post(matcher, wild)
    assert matcher.match(*came) is None
    assert matcher.posted() == [a]


@pytest.mark.parametrize("wild", [(ANY_SOURCE, 7), (1, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
def test_wildcard_and_exact_match_in_the_order_of_posting(matcher: Matcher, wild: tuple[int, int]) -> None:
    a, b, c, d = post(matcher, wild, (1, 7), wild, (1, 7))
    assert [matcher.match(1, 7) for _ in range(5)] == [a, b, c, d, None]
    a, b, c = post(matcher, (1, 7), wild, (1, 7))
    assert [matcher.match(1, 7) for _ in range(4)] == [a, b, c, None]


def test_wildcards_match_in_the_order_of_posting(matcher: Matcher) -> None:
    a, b, c = post(matcher, (ANY_SOURCE, 7), (1, ANY_TAG), (ANY_SOURCE, ANY_TAG))
    assert matcher.match(1, 8) is b
    assert matcher.match(1, 7) is a
    assert matcher.match(2, 9) is c


def test_a_wildcard_that_does_not_admit_leaves_the_exact_one_its_message(matcher: Matcher) -> None:
    _, b = post(matcher, (2, ANY_TAG), (1, 7))
    assert matcher.match(1, 7) is b


def test_posted_lists_what_waits(matcher: Matcher) -> None:
    a, b, c, d = post(matcher, (1, 7), (ANY_SOURCE, 7), (1, 7), (2, 7))
    assert set(matcher.posted()) == {a, b, c, d}
    matcher.match(1, 7)
    assert set(matcher.posted()) == {b, c, d}


# -- messages that come first -------------------------------------------------------------------------------------------


def test_early_messages_are_kept_in_order(matcher: Matcher) -> None:
    a, b, c = keep(matcher, (1, 7), (1, 7), (1, 7))
    assert [matcher.post(receive(1, 7)) for _ in range(4)] == [a, b, c, None]


def test_exact_receive_takes_its_own_early_message(matcher: Matcher) -> None:
    a, b, c, d = keep(matcher, (1, 7), (2, 7), (1, 8), (1, 7))
    assert matcher.post(receive(2, 7)) is b
    assert matcher.post(receive(1, 8)) is c
    assert matcher.post(receive(1, 7)) is a
    assert matcher.post(receive(1, 7)) is d


def test_wildcard_receive_takes_the_message_that_came_first(matcher: Matcher) -> None:
    a, b, c, d, e = keep(matcher, (3, 9), (1, 7), (2, 8), (1, 7), (3, 7))
    assert matcher.post(receive(ANY_SOURCE, 7)) is b
    assert matcher.post(receive(3, ANY_TAG)) is a
    assert matcher.post(receive(ANY_SOURCE, ANY_TAG)) is c
    assert matcher.post(receive(ANY_SOURCE, 7)) is d
    assert matcher.post(receive(ANY_SOURCE, ANY_TAG)) is e
    assert matcher.post(receive(ANY_SOURCE, ANY_TAG)) is None


def test_receive_that_took_an_early_message_is_not_posted(matcher: Matcher) -> None:
    keep(matcher, (1, 7), (1, 7))
    matcher.post(receive(1, 7))
    matcher.post(receive(ANY_SOURCE, ANY_TAG))
    assert matcher.posted() == []
    assert matcher.match(1, 7) is None


def test_receive_that_nothing_fits_is_posted(matcher: Matcher) -> None:
    keep(matcher, (1, 7))
    a, b = post(matcher, (1, 8), (2, ANY_TAG))
    assert set(matcher.posted()) == {a, b}


class Reference:
    """The rules as MPI states them: two lists, searched from the front."""

    def __init__(self) -> None:
        self.receives: list[Receive] = []
        self.arrivals: list[Arrival] = []

    @staticmethod
    def fits(wanted: Receive | Probe, source: int, tag: int) -> bool:
        return wanted.source in (ANY_SOURCE, source) and wanted.tag in (ANY_TAG, tag)

    def post(self, wanted: Receive) -> Arrival | None:
        for each in self.arrivals:
            if self.fits(wanted, each.source, each.tag):
                self.arrivals.remove(each)
                return each
        self.receives.append(wanted)
        return None

    def match(self, source: int, tag: int) -> Receive | None:
        for each in self.receives:
            if self.fits(each, source, tag):
                self.receives.remove(each)
                return each
        return None


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_matches_as_the_rules_say(seed: int) -> None:
    generator = random.Random(seed)
    matcher, reference = Matcher(), Reference()
    taken = 0
    for _ in range(500):
        source, tag = generator.randrange(3), generator.randrange(3)
        if generator.random() < 0.5:
            wanted = receive(
                ANY_SOURCE if generator.random() < 0.3 else source, ANY_TAG if generator.random() < 0.3 else tag
            )
            early = matcher.post(wanted)
            assert early is reference.post(wanted)
            taken += early is not None
        else:
            posted = matcher.match(source, tag)
            assert posted is reference.match(source, tag)
            taken += posted is not None
            if posted is None:
                came = arrival(source, tag)
                matcher.keep(came)
                reference.arrivals.append(came)
        assert set(matcher.posted()) == set(reference.receives)
    assert taken > 100


# -- the payload of an early message ------------------------------------------------------------------------------------


def test_complete_arrival_is_delivered() -> None:
    early, wanted = arrival(1, 7, b"abcd"), receive(1, 7)
    early.finish()
    assert early.complete
    assert not wanted.done
    early.deliver(wanted)
    assert (wanted.done, wanted.position, bytes(wanted.buffer or b"")) == (True, 4, b"abcd\0\0\0\0")


def test_arrival_delivers_itself_when_its_receive_came_in_between() -> None:
    early, wanted = Arrival(1, 7, 6, bytes(32), announced=False), receive(1, 7)
    early.feed(memoryview(b"ab"))
    early.receive = wanted
    early.window()[:3] = b"cde"
    early.advance(3)
    assert len(early.window()) == 1
    assert not wanted.done
    early.feed(memoryview(b"f"))
    early.finish()
    assert (wanted.done, bytes(wanted.buffer or b"")) == (True, b"abcdef\0\0")


def test_empty_arrival_is_delivered() -> None:
    early, wanted = arrival(1, 7), receive(1, 7)
    early.receive = wanted
    early.finish()
    assert (wanted.done, wanted.position) == (True, 0)


def test_announced_arrival_has_no_memory() -> None:
    assert Arrival(1, 7, 2**40, bytes(32), announced=True).payload is None


# -- looking, and taking back -------------------------------------------------------------------------------------------


def probe(source: int, tag: int, takes: bool = False) -> Probe:
    return Probe(CHANNEL, source, tag, takes)


@pytest.mark.parametrize("source", [1, ANY_SOURCE])
@pytest.mark.parametrize("tag", [7, ANY_TAG])
def test_find_leaves_what_take_removes(matcher: Matcher, source: int, tag: int) -> None:
    assert matcher.find(source, tag) is None
    assert matcher.take(source, tag) is None
    a, b = keep(matcher, (1, 7), (1, 7))
    assert [matcher.find(source, tag) for _ in range(3)] == [a, a, a]
    assert [matcher.take(source, tag) for _ in range(3)] == [a, b, None]
    assert matcher.find(source, tag) is None
    assert matcher.early() == []


def test_find_and_take_see_what_came_first(matcher: Matcher) -> None:
    a, b, c, d = keep(matcher, (3, 9), (1, 7), (3, 7), (1, 9))
    assert matcher.find(ANY_SOURCE, ANY_TAG) is a
    assert matcher.find(ANY_SOURCE, 7) is b
    assert matcher.find(1, ANY_TAG) is b
    assert matcher.find(3, 7) is c
    assert matcher.find(2, ANY_TAG) is None
    assert matcher.find(ANY_SOURCE, 8) is None
    assert matcher.take(3, ANY_TAG) is a
    assert matcher.take(ANY_SOURCE, 9) is d
    assert matcher.take(ANY_SOURCE, ANY_TAG) is b
    assert matcher.take(ANY_SOURCE, ANY_TAG) is c


def test_looking_posts_nothing(matcher: Matcher) -> None:
    matcher.find(1, 7)
    matcher.take(ANY_SOURCE, ANY_TAG)
    assert matcher.posted() == []
    assert matcher.match(1, 7) is None


def test_early_lists_what_nobody_wants(matcher: Matcher) -> None:
    a, b, c = keep(matcher, (1, 7), (2, 7), (1, 7))
    assert set(matcher.early()) == {a, b, c}
    matcher.find(1, 7)
    assert set(matcher.early()) == {a, b, c}
    matcher.take(1, 7)
    matcher.post(receive(2, 7))
    assert matcher.early() == [c]


def test_probe_finds_a_message_that_is_there(matcher: Matcher) -> None:
    a, _ = keep(matcher, (1, 7), (1, 7))
    for wanted in (probe(1, 7), probe(ANY_SOURCE, 7), probe(ANY_SOURCE, ANY_TAG)):
        assert matcher.probe(wanted) is wanted
        assert (wanted.done, wanted.arrival) == (True, a)
    assert matcher.post(receive(1, 7)) is a


def test_matched_probe_takes_a_message_that_is_there(matcher: Matcher) -> None:
    a, b = keep(matcher, (1, 7), (1, 7))
    wanted = matcher.probe(probe(ANY_SOURCE, ANY_TAG, takes=True))
    assert (wanted.done, wanted.arrival) == (True, a)
    assert matcher.early() == [b]
    assert matcher.post(receive(1, 7)) is b


@pytest.mark.parametrize("wild", [(1, 7), (ANY_SOURCE, 7), (1, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
@pytest.mark.parametrize("takes", [False, True])
def test_probe_waits_for_its_message(matcher: Matcher, wild: tuple[int, int], takes: bool) -> None:
    wanted = matcher.probe(probe(*wild, takes))
    keep(matcher, (2, 8))
    if wild == (ANY_SOURCE, ANY_TAG):
        assert wanted.done
        return
    assert not wanted.done
    (a,) = keep(matcher, (1, 7))
    assert (wanted.done, wanted.arrival) == (True, a)
    assert matcher.find(1, 7) is (None if takes else a)
    (b,) = keep(matcher, (1, 7))  # the probe is not asked again
    assert wanted.arrival is a
    assert matcher.take(1, 7) is (b if takes else a)


def test_a_posted_receive_goes_before_a_probe(matcher: Matcher) -> None:
    wanted = matcher.probe(probe(1, 7, takes=True))
    (a,) = post(matcher, (ANY_SOURCE, ANY_TAG))
    assert matcher.match(1, 7) is a  # even one that is posted later
    assert not wanted.done
    (b,) = keep(matcher, (1, 7))
    assert wanted.arrival is b


def test_several_probes_see_one_message_until_one_takes_it(matcher: Matcher) -> None:
    wanted = [
        matcher.probe(probe(*each))
        for each in ((1, 7), (ANY_SOURCE, 8), (ANY_SOURCE, 7), (1, ANY_TAG, True), (1, 7), (ANY_SOURCE, ANY_TAG, True))
    ]
    a = arrival(1, 7)
    matcher.keep(a)
    assert [each.arrival for each in wanted] == [a, None, a, a, None, None]
    assert matcher.early() == []
    b = arrival(1, 7)
    matcher.keep(b)
    assert [each.arrival for each in wanted[4:]] == [b, b]
    assert matcher.early() == []
    c = arrival(2, 8)
    matcher.keep(c)
    assert wanted[1].arrival is c
    assert matcher.early() == [c]


def test_probe_tells_its_waiter_once(matcher: Matcher) -> None:
    told = []

    class Waiter:
        def notify(self) -> None:
            told.append(1)

    wanted = probe(1, 7)
    wanted.waiter = Waiter()
    matcher.probe(wanted)
    keep(matcher, (1, 7), (1, 7))
    assert told == [1]


@pytest.mark.parametrize("wanted", [(1, 7), (ANY_SOURCE, 7), (1, ANY_TAG), (ANY_SOURCE, ANY_TAG)])
def test_withdrawn_receive_gets_nothing(matcher: Matcher, wanted: tuple[int, int]) -> None:
    a, b, c = post(matcher, wanted, wanted, wanted)
    assert matcher.withdraw(b)
    assert not matcher.withdraw(b)
    assert [matcher.match(1, 7) for _ in range(3)] == [a, c, None]
    assert not matcher.withdraw(a)
    assert not matcher.withdraw(c)


def test_withdrawing_the_last_receive_of_a_key_leaves_nothing(matcher: Matcher) -> None:
    (a,) = post(matcher, (1, 7))
    assert matcher.withdraw(a)
    assert matcher.posted() == []
    assert matcher.match(1, 7) is None
    (b,) = keep(matcher, (1, 7))
    assert matcher.find(1, 7) is b


def test_withdrawing_what_was_never_posted(matcher: Matcher) -> None:
    (a,) = post(matcher, (1, 7))
    assert not matcher.withdraw(receive(1, 7))
    assert not matcher.withdraw(receive(2, 7))
    assert not matcher.withdraw(receive(ANY_SOURCE, 7))
    assert matcher.posted() == [a]


@pytest.mark.parametrize("seed", range(10))
def test_any_sequence_with_probes_and_withdrawals_matches_as_the_rules_say(seed: int) -> None:
    generator = random.Random(100 + seed)
    matcher, reference = Matcher(), Reference()
    withdrawn = taken = 0
    for _ in range(500):
        source, tag = generator.randrange(3), generator.randrange(3)
        wild = (ANY_SOURCE if generator.random() < 0.3 else source, ANY_TAG if generator.random() < 0.3 else tag)
        choice = generator.random()
        if choice < 0.35:
            wanted = receive(*wild)
            assert matcher.post(wanted) is reference.post(wanted)
        elif choice < 0.7:
            posted = matcher.match(source, tag)
            assert posted is reference.match(source, tag)
            if posted is None:
                came = arrival(source, tag)
                matcher.keep(came)
                reference.arrivals.append(came)
        elif choice < 0.85:
            found = next(
                (each for each in reference.arrivals if reference.fits(receive(*wild), each.source, each.tag)), None
            )
            assert matcher.find(*wild) is found
            if generator.random() < 0.5 and found is not None:
                assert matcher.take(*wild) is found
                reference.arrivals.remove(found)
                taken += 1
        elif reference.receives:
            wanted = generator.choice(reference.receives)
            assert matcher.withdraw(wanted)
            reference.receives.remove(wanted)
            withdrawn += 1
        assert set(matcher.posted()) == set(reference.receives)
        assert set(matcher.early()) == set(reference.arrivals)
    assert min(withdrawn, taken) > 5


# -- hypothesis against two lists -----------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """All that a matcher does, in any order, beside lists of what waits that are searched from the front."""

    source, tag = st.integers(0, 2), st.integers(0, 2)
    wanted_source, wanted_tag = st.integers(-1, 2), st.integers(-1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.matcher = Matcher()
        self.receives: list[Receive] = []
        self.arrivals: list[Arrival] = []
        self.probes: list[Probe] = []

    def early(self, source: int, tag: int) -> Arrival | None:
        admitted = [each for each in self.arrivals if source in (ANY_SOURCE, each.source) and tag in (ANY_TAG, each.tag)]
        return admitted[0] if admitted else None

    @rule(source=wanted_source, tag=wanted_tag)
    def post(self, source: int, tag: int) -> None:
        wanted, found = receive(source, tag), self.early(source, tag)
        assert self.matcher.post(wanted) is found
        if found is None:
            self.receives.append(wanted)
        else:
            self.arrivals.remove(found)

    @rule(source=source, tag=tag, announced=st.booleans())
    def arrive(self, source: int, tag: int, announced: bool) -> None:
        came = arrival(source, tag, None if announced else b"")
        receives = [each for each in self.receives if Reference.fits(each, source, tag)]
        matched = self.matcher.match(source, tag)
        assert matched is (receives[0] if receives else None)
        if matched is not None:
            self.receives.remove(matched)
            return
        self.matcher.keep(came)
        for each in [each for each in self.probes if Reference.fits(each, source, tag)]:
            assert each.arrival is came
            self.probes.remove(each)
            if each.takes:
                return
        self.arrivals.append(came)

    @rule(source=wanted_source, tag=wanted_tag, takes=st.booleans())
    def ask(self, source: int, tag: int, takes: bool) -> None:
        wanted, found = probe(source, tag, takes), self.early(source, tag)
        self.matcher.probe(wanted)
        assert wanted.arrival is found
        if found is None:
            self.probes.append(wanted)
        elif takes:
            self.arrivals.remove(found)

    @rule(source=wanted_source, tag=wanted_tag, takes=st.booleans())
    def look(self, source: int, tag: int, takes: bool) -> None:
        found = self.early(source, tag)
        assert (self.matcher.take if takes else self.matcher.find)(source, tag) is found
        if takes and found is not None:
            self.arrivals.remove(found)

    @precondition(lambda self: self.receives)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        wanted = self.receives.pop(data.draw(st.integers(0, len(self.receives) - 1)))
        assert self.matcher.withdraw(wanted)
        assert not self.matcher.withdraw(wanted)

    @invariant()
    def the_same_waits(self) -> None:
        assert set(self.matcher.posted()) == set(self.receives)
        assert set(self.matcher.early()) == set(self.arrivals)
        assert (bool(self.matcher.receives), bool(self.matcher.arrivals), bool(self.matcher.probes)) == (
            bool(self.receives),
            bool(self.arrivals),
            bool(self.probes),
        )
        for source in range(3):
            assert self.matcher.awaits(source) == any(each.source == source for each in self.receives)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


# -- however much waits ---------------------------------------------------------------------------------------------------


class NoticedReceive(Noticed, Receive):
    __slots__ = ()


class NoticedArrival(Noticed, Arrival):
    __slots__ = ()


PATTERNS = [(1, 7), (1, ANY_TAG), (ANY_SOURCE, 7), (ANY_SOURCE, ANY_TAG)]


def waiting_receives(wanted: tuple[int, int], count: int, spread: bool) -> tuple[Matcher, list[Receive]]:
    """Posted receives of a pattern; if `spread`, of tags of their own where the pattern has one."""
    matcher = Matcher()
    receives: list[Receive] = [
        NoticedReceive(CHANNEL, wanted[0], 7 + each if spread and wanted[1] == 7 else wanted[1], None, 0, bytes(32))
        for each in range(count)
    ]
    for each in receives:
        assert matcher.post(each) is None
    return matcher, receives


def early_messages(count: int, spread: bool, announced: bool = False) -> tuple[Matcher, list[Arrival]]:
    matcher = Matcher()
    arrivals: list[Arrival] = [
        NoticedArrival(1, 7 + each if spread else 7, 0, bytes(32), announced) for each in range(count)
    ]
    for each in arrivals:
        matcher.keep(each)
    return matcher, arrivals


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("wanted", PATTERNS)
def test_however_many_receives_are_posted(wanted: tuple[int, int], spread: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        matcher, receives = waiting_receives(wanted, count, spread)

        def come() -> None:
            for each in reversed(receives) if spread and wanted[1] == 7 else receives:
                assert matcher.match(1, each.tag if each.tag >= 0 else 7) is each

        return come

    assert_linear(prepare)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("wanted", PATTERNS)
def test_however_many_receives_are_taken_back(wanted: tuple[int, int], backwards: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        matcher, receives = waiting_receives(wanted, count, spread=False)
        return lambda: [matcher.withdraw(each) for each in receives[:: -1 if backwards else 1]]

    assert_linear(prepare)


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("wanted", PATTERNS)
def test_however_many_messages_are_early(wanted: tuple[int, int], spread: bool, announced: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        matcher, arrivals = early_messages(count, spread, announced)

        def receive_them() -> None:
            for each in arrivals:
                source, tag = wanted[0], each.tag if wanted[1] == 7 else wanted[1]
                assert matcher.find(source, tag) is each
                assert matcher.take(source, tag) is each

        return receive_them

    assert_linear(prepare)


def test_however_many_messages_are_early_and_taken_from_the_end() -> None:
    """By their tags, while wildcards look at the beginning."""

    def prepare(count: int) -> Callable[[], object]:
        matcher, arrivals = early_messages(count, spread=True)

        def take_them() -> None:
            for each in reversed(arrivals):
                assert matcher.find(ANY_SOURCE, ANY_TAG) is arrivals[0]
                assert matcher.take(1, each.tag) is each

        return take_them

    assert_linear(prepare)


@pytest.mark.parametrize("takes", [False, True])
@pytest.mark.parametrize("wanted", PATTERNS)
def test_however_many_probes_wait(wanted: tuple[int, int], takes: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        matcher = Matcher()
        probes = [matcher.probe(probe(*wanted, takes)) for _ in range(count)]

        def come() -> None:
            for _ in range(count):
                matcher.keep(arrival(1, 7))
            assert all(each.done for each in probes)

        return come

    assert_linear(prepare)
