"""What a timeout says: with whom the rank was waiting, for what, and how far it had come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..deadline import Deadline
from ..errors import OperationTimeoutError
from .matching import Probe
from .operation import Operation, Receive, Send
from .task import Waiting, peer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.endpoint import Peer

__all__ = ["late", "unsent"]

# Operations that a text names; ranks that a text names.
_MOST = 4


def late(task: Waiting, deadline: Deadline, peers: Sequence[Peer], shortages: Sequence[str] = ()) -> OperationTimeoutError:
    """The error of a call that is not done when its budget is spent; `shortages`: what the kernel had no memory for."""
    assert deadline.timeout is not None
    states = [_state(operation, task.name, peers) for operation in task.awaited if not operation.done]
    more = f"; and {len(states) - _MOST} more" if len(states) > _MOST else ""
    return OperationTimeoutError(task.label, deadline.timeout, "; ".join(states[:_MOST]) + more + _shortage(shortages))


def _shortage(shortages: Sequence[str]) -> str:
    if not shortages:
        return ""
    more = f", and so for {len(shortages) - 1} more" if len(shortages) > 1 else ""
    return f"; {shortages[0]}{more}; see free -m, the limits of the control group, and dmesg"


def _state(operation: Operation, name: str, peers: Sequence[Peer]) -> str:
    rank = peer_of(operation)
    who = "any rank" if rank < 0 else str(peers[rank])
    if isinstance(operation, Receive):
        total = operation.nbytes or operation.capacity
        # Of a length that is not known yet, or without any bytes, as those of a barrier.
        what = f"got {operation.position} of {total} bytes from {who}" if total else f"no message from {who}"
    elif isinstance(operation, Probe):
        what = f"no message from {who}"
    else:
        assert isinstance(operation, Send)
        nbytes = len(operation.payload)
        what = f"sending {nbytes} bytes to {who}" if nbytes else f"sending an empty message to {who}"
    missing = _missing(operation, name)
    if rank >= 0 and peers[rank].transport == "self":
        first = "receive with irecv" if isinstance(operation, Send) else "send with isend"
        return f"{what}, which is this process and has {missing}; {first} before"
    return f"{what}, which may have stopped or {missing}; see its log"


def _missing(operation: Operation, name: str) -> str:
    """Say what the peer may not have done: of a collective all make the same call, of a message each its own."""
    assert isinstance(operation, Receive | Probe | Send)
    if operation.channel.collective:
        return f"not entered {name}"
    return "not posted a receive for it" if isinstance(operation, Send) else "not sent it"


def unsent(
    dests: list[int], deadline: Deadline, peers: Sequence[Peer], shortages: Sequence[str] = ()
) -> OperationTimeoutError:
    """The error of a close that leaves messages behind; for `shortages` see `late`."""
    assert deadline.timeout is not None
    names = ", ".join(str(peers[dest]) for dest in dests[:_MOST])
    reason = f"messages to {names} were never received there{_shortage(shortages)}"
    return OperationTimeoutError("close", deadline.timeout, reason)
