"""Text of others, on every way by which it gets into errors, logs and terminals: one line that can be printed, not long."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from faults.strangers import little_memory

from gloompi import Context, Device, HashStore, PeerLostError, RendezvousError
from gloompi.deadline import Deadline
from gloompi.doctor.gathering import gather
from gloompi.engine.fingerprint import describe, fingerprint, read
from gloompi.errors import GloompiError
from gloompi.foreign import plain
from gloompi.rendezvous.hangups import heard, tell
from gloompi.rendezvous.local import local_exchanges
from gloompi.rendezvous.record import Blame, Record, pack_verdict, unpack_verdict
from gloompi.rendezvous.store import exchange_through
from gloompi.testing import RankError, run_ranks
from gloompi.trace.files import read_traces
from gloompi.transport.abort import REASON_LENGTH, Abort, abort_frame
from gloompi.transport.device import Listeners
from gloompi.transport.endpoint import Endpoint
from gloompi.transport.frames import HEADER_NBYTES

pytestmark = pytest.mark.usefixtures("nothing_leaks")

# It clears the screen, sets its title, turns the direction round, and forges a line of the log.
EVIL = "a\x1b[2J\x1b]0;b\x07\x9b\u202e\u2028\r\nERROR root: c\0d\x7f"
SHOWN = r"a\x1b[2J\x1b]0;b\x07\x9b\u202e\u2028\r\nERROR root: c\x00d\x7f"
NOBODY = Endpoint("node7", 4121, 1, bytes(16), b"", ())


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("", 10, ""),
        ("plain text, é€😀", 100, "plain text, é€😀"),
        ("cut", 2, "cu"),
        (EVIL, 100, SHOWN),
        ("\x1b" * 10, 10, r"\x1b\x1b\x"),
        ("\ud800", 10, r"\ud800"),
        ("\U000e0001", 20, r"\U000e0001"),
        ("tab\tand\xa0space", 100, r"tab\tand\xa0space"),
        ("x" * 10_000_000 + "\x1b", 5, "xxxxx"),
    ],
)
def test_plain(text: str, most: int, shown: str) -> None:
    assert plain(text, most) == shown


def test_plain_of_every_character() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = plain(everything, 10 * len(everything))
    assert shown.isprintable()
    shown.encode()
    assert plain(shown, len(shown)) == shown  # who passes it on changes nothing


# -- the rendezvous -------------------------------------------------------------------------------------------------------


def test_host_name() -> None:
    assert Endpoint.unpack(dataclasses.replace(NOBODY, host="n\x1b[2J\nx").pack()).host == r"n\x1b[2J\nx"
    assert len(Endpoint.unpack(dataclasses.replace(NOBODY, host="\x1b" * 64).pack()).host) == 64


def test_failure_of_a_record() -> None:
    assert Record.unpack(Record(NOBODY, bytes(32), EVIL).pack()).failure == SHOWN
    assert len(Record.unpack(Record(NOBODY, bytes(32), "\x1b" * 400).pack()).failure) <= 400


def test_verdict() -> None:
    assert unpack_verdict(pack_verdict(EVIL, Blame.OWN)) == (SHOWN, Blame.OWN)


class Evil(Device):
    def listen(self, backlog: int) -> Listeners:
        raise ValueError(EVIL)


def test_all_ranks_are_told_of_a_failure() -> None:
    def rank(exchange: object, device: Device | None) -> str:
        with pytest.raises(RendezvousError) as caught:
            Context._from_exchange(exchange, device, 20.0, Deadline(20.0))
        return caught.value.reason

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(rank, local_exchanges(3), (None, Evil(), None))) == [SHOWN] * 3


def test_last_words_before_all_are_connected() -> None:
    near, far = socket.socketpair()
    with near, far:
        tell(RendezvousError(EVIL, 1, "n\nx", 7), 1, [near])
        error = heard(1, far)
    assert error is not None
    assert (error.reason, error.host) == (SHOWN, r"n\nx")


def test_who_gives_up_at_a_store() -> None:
    store, agreed = HashStore(), threading.Barrier(2)

    def rank(number: int) -> object:
        deadline = Deadline(20.0)
        with exchange_through(store, number, 2, b"", deadline) as exchange:
            agreed.wait(20.0)
            if number == 1:
                raise ValueError(EVIL)
            return exchange(b"record", deadline, lambda: None)

    def caught(number: int) -> BaseException | None:
        try:
            rank(number)
        except (RendezvousError, ValueError) as exc:
            return exc
        return None

    with ThreadPoolExecutor(2) as pool:
        told, _ = pool.map(caught, range(2))
    assert str(told) == f"rendezvous failed: rank 1 gave up: ValueError: {SHOWN}"


@pytest.mark.parametrize(
    ("key", "fields", "shown"),
    [
        ("offer/1", {"failed": EVIL}, f"rendezvous failed: {SHOWN}"),
        ("offer/1", {"session": "0" * 32, "size": EVIL}, f"there are {SHOWN} ranks"),
        ("hello/1", {"host": EVIL, "pid": EVIL}, f"pid {SHOWN} on {SHOWN}, came later"),
        ("hello/1", {"host": "x" * 10_000_000, "pid": "1"}, "pid 1 on xxx"),
    ],
)
def test_what_others_write_to_a_store(key: str, fields: dict[str, object], shown: str) -> None:
    """Rank 1 finds it in the place of what it has written, or is waiting for."""

    class Forged(HashStore):
        def _read(self, keys):  # type: ignore[no-untyped-def]
            found = super()._read(keys)
            mine = json.loads(self._items.get("gloompi/hello/1", b"{}"))
            forged = json.dumps({"nonce": mine.get("nonce"), **fields}).encode()
            return [forged if each == f"gloompi/{key}" and mine else value for each, value in zip(keys, found, strict=True)]

    with pytest.raises(RendezvousError) as caught, exchange_through(Forged(), 1, 2, b"", Deadline(0.3)):
        pass
    text = str(caught.value)
    assert shown in text
    assert text.isprintable()
    assert len(text) < 6000


# -- while the ranks work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["abort", "exception"])
def test_abort(way: str) -> None:
    def run(ctx: Context) -> str:
        if ctx.rank == 1:
            if way == "abort":
                ctx.abort(EVIL)
                return ""
            raise ValueError(EVIL)
        with pytest.raises(PeerLostError) as caught:
            ctx.barrier()
        assert SHOWN in caught.value.reason
        return str(caught.value)

    if way == "abort":
        _, _, text = run_ranks(3, run)
        assert text.isprintable()
    else:
        with pytest.raises(RankError, match=r"^rank 1 of 3 failed: ValueError: "):
            run_ranks(3, run)


def _told(payload: bytes) -> GloompiError:
    errors: list[GloompiError] = []
    sink = Abort(1, len(payload), errors.append)
    sink.feed(memoryview(payload))
    sink.finish()
    return errors[0]


def test_every_fact_of_an_abort() -> None:
    facts = {"rank": EVIL, "host": EVIL, "pid": EVIL, "address": EVIL, "operation": EVIL, "reason": EVIL * 1000}
    error = _told(json.dumps(["PeerLostError", facts, EVIL]).encode())
    assert isinstance(error, PeerLostError)
    text = str(error)
    assert text.isprintable()
    assert len(text) < REASON_LENGTH + 6 * 200
    header, payload = abort_frame(error, 0)
    assert len(header) == HEADER_NBYTES
    # As it is passed on; a reporter that is no rank is replaced by this one.
    assert str(_told(bytes(payload))).partition(" (rep")[0] == text.partition(" (rep")[0]


@pytest.mark.parametrize("facts", [[], ["reason"], "reason", 7, None])
def test_abort_whose_facts_have_no_names(facts: object) -> None:
    error = _told(json.dumps(["PeerLostError", facts, 1]).encode())
    assert str(error) == "rank 1 aborted and gave no readable reason"


def test_reason_of_an_abort_of_ones_own_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It may be that of an exception which unpickling a peer's object has raised."""

    def body(ctx: Context) -> None:
        ctx.barrier()
        if ctx.rank == 0:
            ctx.abort(EVIL)

    with caplog.at_level(logging.DEBUG, "gloompi"):
        run_ranks(2, body)
    assert any(SHOWN in text for text in caplog.messages)
    assert all(text.isprintable() for text in caplog.messages)


def test_dtype_of_a_fingerprint() -> None:
    mark = fingerprint("send", np.dtype("f8"), 12)
    evil = mark[:-8] + b"\x1b[2J\n\x07\0\0"
    assert describe(evil) == r"send(\x1b[2J\n\x07, count 12)"
    assert read(evil)[2] == r"\x1b[2J\n\x07"


# -- commands ---------------------------------------------------------------------------------------------------------------


def test_what_the_doctor_gathers() -> None:
    told = {"host": EVIL, "addresses": [EVIL, 7], "settings": {EVIL: EVIL}, "load": 0.5, "launcher": "x" * 100_000}

    def rank(exchange: object) -> object:
        return gather(exchange, told, Deadline(20.0))  # type: ignore[arg-type]

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(rank, local_exchanges(2)):
            assert (
                found
                == [
                    {
                        "host": SHOWN,
                        "addresses": [SHOWN, 7],
                        "settings": {SHOWN: SHOWN},
                        "load": 0.5,
                        "launcher": "x" * 4000,
                    }
                ]
                * 2
            )


@pytest.mark.parametrize(
    ("announces", "gives", "text"),
    [
        (b"%16d" % 10**15, b"", "announces b'1000000000000000' bytes of what it has found, and may have 16777216"),
        (b"%16d" % (16 * 1024**2 + 1), b"", "announces b'        16777217' bytes"),
        (b"%16d" % -5, b"", "announces b'              -5' bytes"),
        (b"9" * 5000, b"", "announces b'9999999999999999' bytes"),
        (b"", b"", "announces b'' bytes"),
        (b"%16d" % 5, b"[" * 100_000, r"has given what is no JSON (RecursionError)"),
        (b"%16d" % 5, b"\xff", "has given what is no JSON (UnicodeDecodeError)"),
    ],
)
def test_what_the_doctor_does_not_gather(announces: bytes, gives: bytes, text: str) -> None:
    class Altered:
        rank, size = 0, 2
        asked = 0

        def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
            self.asked += 1
            return [record, announces if self.asked == 1 else gives]

    with little_memory(), pytest.raises(RendezvousError, match=re.escape(f"rank 1 {text}")):
        gather(Altered(), {"host": "a"}, Deadline(1.0))


def test_markup_of_rich_means_nothing_in_what_the_doctor_prints() -> None:
    console = pytest.importorskip("rich.console", reason="needs rich: pip install 'gloompi[doctor]'")
    from examined import examined

    from gloompi.doctor.findings import Finding, Severity
    from gloompi.doctor.text import print_examination

    evil = "[red]x[/nothing][link=file:///]\\"

    def of(value: object) -> Callable[[int], object]:
        return lambda rank: value

    exam = examined(
        "ab" * 10,
        host=of(evil),
        job=of({evil: evil}),
        settings=of({evil: evil}),
        launcher=of(evil),
        versions=of({evil: evil}),
        buffers=of({evil: evil}),
    )
    exam.published[0] = [evil]
    exam.outcomes[1][0] = dataclasses.replace(exam.outcomes[1][0], transport=evil, why=evil)
    out = console.Console(file=io.StringIO(), width=1000, force_terminal=True, color_system=None)
    print_examination(exam, [Finding(Severity.ERROR, evil, evil)], out)
    text = out.file.getvalue()
    # Launcher, version, 2 of the job, 2 settings, a finding and its advice; hosts with a number behind them; an address, ...
    assert text.count(evil) > 30
    assert text.count("nothing") == text.count(evil)  # and is nowhere taken apart
    assert "\x1b]8" not in text  # no link


def test_markup_of_rich_means_nothing_in_the_bar_of_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    console = pytest.importorskip("rich.console", reason="needs rich: pip install 'gloompi[doctor]'")
    from gloompi.bench.screen import screen
    from gloompi.doctor import terminal

    out = console.Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    monkeypatch.setattr(terminal, "console", lambda stderr=False: out)
    with screen(0, 2, True) as shown:
        shown.advance("[red]x[/nothing]")
        shown.show("[red]y[/nothing]")
    assert "[red]x[/nothing]" in out.file.getvalue()
    assert "[red]y[/nothing]" in out.file.getvalue()


def test_names_in_a_trace(tmp_path: Path) -> None:
    who = {"name": "gloompi", "args": {"rank": 0, "size": 1, "host": EVIL, "pid": 7, "host_id": ""}}
    args = {"context": EVIL, "number": 1, "state": EVIL}
    call = {"name": EVIL, "ph": "X", "ts": 1, "dur": 1, "args": args}
    lines = ",\n".join(map(json.dumps, (who, call)))
    (tmp_path / f"gloompi-{'0' * 16}-7-rank0.json").write_text(f"[\n{lines}\n]")
    (trace,) = read_traces(tmp_path)
    (event,) = trace.events
    assert (trace.member.host, event.name, event.state, event.context[1]) == (SHOWN, SHOWN, SHOWN, SHOWN)


@pytest.mark.parametrize("name", ["rank", "size", "pid", "number"])
@pytest.mark.parametrize("value", [EVIL, [EVIL], 10**1000, 1.5], ids=["text", "list", "huge", "float"])
def test_numbers_in_a_trace_are_numbers(name: str, value: object, tmp_path: Path) -> None:
    """They are shown, and counted with: a text in their place would reach the terminal as it is."""
    facts = {"rank": 0, "size": 1, "pid": 7, "number": 1, name: value}
    who = {"name": "gloompi", "args": {**facts, "host": "node0", "host_id": ""}}
    call = {"name": "barrier #1", "ph": "X", "ts": 1, "dur": 1, "args": {**facts, "context": "", "state": "done"}}
    lines = ",\n".join(map(json.dumps, (who, call)))
    (tmp_path / f"gloompi-{'0' * 16}-7-rank0.json").write_text(f"[\n{lines}\n]")
    with pytest.raises(ValueError, match=f"is not a trace of gloompi: ValueError: its {name} is no number") as caught:
        read_traces(tmp_path)
    assert "\x1b" not in str(caught.value)


def test_nobody_forges_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Who is at the door gets what he says into the log in quotation marks alone."""
    from faults.strangers import Ranks, dropped, let_in

    caplog.set_level(logging.DEBUG)
    ranks = Ranks(2, "tcp")
    try:
        accepting = ranks.begin(0)
        sock = ranks.call(0)
        sock.sendall(b"\x1b[2J\nERROR root".ljust(64, b"\n"))
        assert dropped(sock)
        let_in(ranks, accepting)
    finally:
        ranks.close()
    assert all(message.isprintable() for message in caplog.messages)
    assert r"it starts with b'\x1b[2J\nERR'" in caplog.text
