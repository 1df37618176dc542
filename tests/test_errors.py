"""Errors: their texts in full, their facts as attributes, and the way to another rank and back."""

from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from gloompi import errors
from gloompi.errors import (
    AuthenticationError,
    ContextClosedError,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    RendezvousError,
    SystemCallError,
    note,
    readable,
    rebuild,
    summary,
    wire_name,
)

CASES: dict[str, tuple[GloompiError, str, dict[str, Any]]] = {
    "GloompiError": (GloompiError("it broke"), "it broke", {"reason": "it broke"}),
    "RendezvousError": (
        RendezvousError("no such interface", 2, "node7", 4121),
        "rendezvous failed at rank 2 (node7, pid 4121): no such interface",
        {"reason": "no such interface", "rank": 2, "host": "node7", "pid": 4121},
    ),
    "RendezvousError of nobody": (
        RendezvousError("ranks [2] did not come"),
        "rendezvous failed: ranks [2] did not come",
        {"reason": "ranks [2] did not come", "rank": None, "host": "", "pid": 0},
    ),
    "RendezvousError at rank 0": (
        RendezvousError("no room", 0, "node0", 1),
        "rendezvous failed at rank 0 (node0, pid 1): no room",
        {"reason": "no room", "rank": 0, "host": "node0", "pid": 1},
    ),
    "PeerLostError": (
        PeerLostError(3, "node7", 4121, "tcp 10.0.0.4:40112", "allreduce #17", "connection closed by peer"),
        "lost rank 3 (node7, pid 4121, tcp 10.0.0.4:40112) in allreduce #17: connection closed by peer",
        {
            "rank": 3,
            "host": "node7",
            "pid": 4121,
            "address": "tcp 10.0.0.4:40112",
            "operation": "allreduce #17",
            "reason": "connection closed by peer",
        },
    ),
    "PeerLostError while idle": (
        PeerLostError(0, "node7", 4121, "unix @gloompi-ab", None, "Connection reset by peer"),
        "lost rank 0 (node7, pid 4121, unix @gloompi-ab) between operations: Connection reset by peer",
        {
            "rank": 0,
            "host": "node7",
            "pid": 4121,
            "address": "unix @gloompi-ab",
            "operation": None,
            "reason": "Connection reset by peer",
        },
    ),
    "OperationTimeoutError": (
        OperationTimeoutError("allreduce #17", 30, "rank 3 has sent 4096 of 65536 bytes"),
        "allreduce #17 timed out after 30.0 s: rank 3 has sent 4096 of 65536 bytes",
        {"operation": "allreduce #17", "timeout": 30, "reason": "rank 3 has sent 4096 of 65536 bytes"},
    ),
    "SystemCallError": (
        SystemCallError(2, "allreduce #17", errno.EFAULT, "sending 8 bytes failed"),
        "a system call of rank 2 failed in allreduce #17: sending 8 bytes failed",
        {"rank": 2, "operation": "allreduce #17", "errno": errno.EFAULT, "reason": "sending 8 bytes failed"},
    ),
    "SystemCallError while idle": (
        SystemCallError(0, None, errno.EBADF, "receiving failed"),
        "a system call of rank 0 failed between operations: receiving failed",
        {"rank": 0, "operation": None, "errno": errno.EBADF, "reason": "receiving failed"},
    ),
    "MismatchError about a message": (
        MismatchError("the message from rank 3 to rank 0 with tag 7", 0, "recv(<f4, count 9)", 3, "send(<f4, count 10)"),
        "ranks disagree on the message from rank 3 to rank 0 with tag 7: rank 0 called recv(<f4, count 9), rank 3 called "
        "send(<f4, count 10); a receive needs the dtype that was sent and room for all of it; recv_array takes any array, "
        "recv_object any object",
        {
            "operation": "the message from rank 3 to rank 0 with tag 7",
            "rank": 0,
            "here": "recv(<f4, count 9)",
            "other": 3,
            "there": "send(<f4, count 10)",
        },
    ),
    "MismatchError": (
        MismatchError("allreduce #2", 0, "allreduce(sum, <f4, count 10)", 3, "allreduce(max, <f4, count 10)"),
        "ranks disagree on allreduce #2: rank 0 called allreduce(sum, <f4, count 10), rank 3 called "
        "allreduce(max, <f4, count 10); every rank must make the same calls in the same order",
        {
            "operation": "allreduce #2",
            "rank": 0,
            "here": "allreduce(sum, <f4, count 10)",
            "other": 3,
            "there": "allreduce(max, <f4, count 10)",
        },
    ),
    "ContextClosedError": (ContextClosedError("closed"), "closed", {"reason": "closed"}),
    "AuthenticationError": (AuthenticationError("wrong HMAC"), "wrong HMAC", {"reason": "wrong HMAC"}),
}


def test_every_error_has_a_case() -> None:
    assert {type(error).__name__ for error, _, _ in CASES.values()} == set(errors.__all__)


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    error, text, _ = CASES[name]
    assert str(error) == text


@pytest.mark.parametrize("name", CASES)
def test_facts_are_attributes(name: str) -> None:
    error, _, facts = CASES[name]
    assert error.facts() == facts
    assert {fact: getattr(error, fact) for fact in facts} == facts
    assert error.reported_by is None


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
@pytest.mark.parametrize("name", CASES)
def test_copies_keep_class_facts_and_text(name: str, again: Any) -> None:
    error, text, facts = CASES[name]
    other = again(error)
    assert other is not error
    assert (type(other), str(other), other.facts(), other.reported_by) == (type(error), text, facts, None)


def test_pickling_keeps_who_reported_it() -> None:
    error = rebuild("AuthenticationError", {"reason": "wrong HMAC"}, 4)
    other = pickle.loads(pickle.dumps(error))
    assert (str(other), other.reported_by) == ("wrong HMAC (reported by rank 4)", 4)


@pytest.mark.parametrize("reporter", [0, 5])
@pytest.mark.parametrize("name", CASES)
def test_rebuild_makes_the_error_of_another_rank(name: str, reporter: int) -> None:
    error, text, facts = CASES[name]
    other = rebuild(type(error).__name__, facts, reporter)
    assert type(other) is type(error)
    assert (str(other), other.facts()) == (f"{text} (reported by rank {reporter})", facts)
    assert other.reported_by == reporter


def test_an_error_of_another_rank_says_where_this_one_was() -> None:
    facts = {"rank": 3, "host": "node7", "pid": 4121, "address": "tcp 10.0.0.4:40112", "operation": "allreduce #17"}
    facts["reason"] = "connection closed by peer"
    text = "lost rank 3 (node7, pid 4121, tcp 10.0.0.4:40112) in allreduce #17: connection closed by peer"
    for interrupted, told in {
        "allreduce #16": "(reported by rank 0; this rank was in allreduce #16)",
        "allreduce #17": "(reported by rank 0)",
        "": "(reported by rank 0)",
    }.items():
        error = rebuild("PeerLostError", facts, 0, interrupted)
        for each in (error, pickle.loads(pickle.dumps(error))):
            assert (str(each), each.interrupted) == (f"{text} {told}", interrupted)
    assert str(rebuild("PeerLostError", facts, 3, "recv")) == f"{text} (reported by rank 3)"  # it tells of itself
    late = rebuild("OperationTimeoutError", {"operation": "barrier #2", "timeout": 3.0, "reason": "no"}, 1, "recv")
    assert str(late) == "barrier #2 timed out after 3.0 s: no (reported by rank 1; this rank was in recv)"
    facts = {"rank": 1, "operation": "send", "errno": errno.EFAULT, "reason": "no"}
    failed = rebuild("SystemCallError", facts, 1, "recv")
    assert str(failed) == "a system call of rank 1 failed in send: no (reported by rank 1; this rank was in recv)"


def test_rebuild_of_an_unknown_class() -> None:
    error = rebuild("FutureError", {"reason": "it rained"}, 1)
    assert type(error) is GloompiError
    assert str(error) == "it rained (reported by rank 1)"


class Strange(str):
    """A text that cannot do what texts do."""

    def __getitem__(self, index: Any) -> Any:
        raise LookupError("no part")


class Speechless(Exception):
    """Its text is whatever `make` returns or raises."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make

    def __str__(self) -> str:
        return self._make()  # type: ignore[no-any-return]


def _raise(exc: BaseException) -> Callable[[], Any]:
    def make() -> Any:
        raise exc

    return make


def _descend() -> str:
    return _descend()


SPEECHLESS: dict[str, tuple[BaseException, str]] = {
    "raises": (Speechless(_raise(ValueError("no text"))), "Speechless (its text cannot be made)"),
    "no memory": (Speechless(_raise(MemoryError())), "Speechless (its text cannot be made)"),
    "descends": (Speechless(_descend), "Speechless (its text cannot be made)"),
    "raises itself": (Speechless(lambda: str(SPEECHLESS["raises"][0])), "Speechless (its text cannot be made)"),
    "no str": (Speechless(lambda: 7), "Speechless (its text cannot be made)"),
    "strange str": (Speechless(lambda: Strange("x")), "Speechless (its text cannot be made)"),
    "surrogate": (OSError(2, "No such file", "/data/\udce9"), "FileNotFoundError: [Errno 2] No such file: '/data/\\udce9'"),
    "bare surrogate": (ValueError("/data/\udce9 \ud800"), "ValueError: /data/\\udce9 \\ud800"),
    "control characters": (ValueError("a\0b\x1b[31m\n\x7f\u2028"), "ValueError: a\0b\x1b[31m\n\x7f\u2028"),
    "huge": (ValueError("é" * 10_000_000), "ValueError: " + "é" * 10_000_000),
    "empty": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "ordinary": (KeyError("x"), "KeyError: 'x'"),
}
"""Exceptions, and how they are described."""


@pytest.mark.parametrize("name", SPEECHLESS)
def test_summary_of_any_exception_can_be_encoded(name: str) -> None:
    exc, text = SPEECHLESS[name]
    found = summary(exc)
    assert type(found) is str
    assert found == text
    found.encode()


def test_summary_lets_pass_what_a_signal_handler_raises() -> None:
    for raised in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(raised)) as caught:
            summary(Speechless(_raise(raised)))
        assert caught.value is raised


@pytest.mark.parametrize(
    ("text", "most", "wanted"),
    [
        ("abc", None, "abc"),
        ("abc", 2, "ab"),
        ("\udce9abc", 8, "\\udce9ab"),
        ("\udce9abc", 3, "\\ud"),
        ("é€😀", None, "é€😀"),
    ],
)
def test_readable(text: str, most: int | None, wanted: str) -> None:
    assert readable(text, most) == wanted


def test_note_on_an_error_that_takes_none() -> None:
    class Frozen(GloompiError):
        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    error = GloompiError.__new__(Frozen)
    note(error, "one")
    note(error, "two")
    assert error.__notes__ == ["one", "two"]  # type: ignore[attr-defined]


def test_errors_of_a_program_s_own_class_travel_as_their_base() -> None:
    class Mine(PeerLostError):
        pass

    Impostor = type("PeerLostError", (GloompiError,), {})
    assert wire_name(Mine(1, "", 0, "", None, "")) == "PeerLostError"
    assert wire_name(Impostor("")) == "GloompiError"
    assert {wire_name(error) for error, _, _ in CASES.values()} == set(errors.__all__)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (PeerLostError, ConnectionError),
        (PeerLostError, OSError),
        (OperationTimeoutError, TimeoutError),
        (SystemCallError, OSError),
        (MismatchError, ValueError),
    ],
)
def test_errors_are_also_the_builtin_ones(error: type[GloompiError], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


def test_all_errors_have_one_base() -> None:
    assert all(issubclass(getattr(errors, name), GloompiError) for name in errors.__all__)
