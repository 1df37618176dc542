"""For tests, of this project and of its users: a function on several ranks in one process, and the contract of stores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .context import Context
from .contract import check_store
from .deadline import Deadline
from .errors import GloompiError, summary
from .rendezvous.local import local_exchanges
from .secret import shared_secret
from .transport.device import Device

__all__ = ["RankError", "check_store", "run_ranks"]

Result = TypeVar("Result")


class RankError(Exception):
    """The function that `run_ranks` ran has failed.  `__cause__` is the exception.

    Attributes
    ----------
    rank : int
    """

    def __init__(self, rank: int, size: int, exc: BaseException) -> None:
        super().__init__(rank, size, exc)
        self.rank, self.size = rank, size

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size} failed: {summary(self.args[2])}"


def run_ranks(
    n: int, fn: Callable[[Context], Result], *, timeout: float = 60.0, device: Device | None = None
) -> list[Result]:
    """Run ``fn(ctx)`` on `n` ranks, each a thread of this process, connected by real sockets.

    Parameters
    ----------
    n : int
        Number of ranks.
    fn : callable
        Gets the rank's Context, which is closed when it returns and aborted when it raises.
    timeout : float
        Seconds for the rendezvous, and default budget of every operation.
    device : Device, optional

    Returns
    -------
    list
        What `fn` returned, in rank order.

    Raises
    ------
    RankError
        `fn` raised on some rank.  Names the first rank that failed by itself, rather than because of another one.
    TimeoutError
        A thread is still busy after twice the timeout, outside gloompi; it is left behind.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    results: list[Any] = [None] * n
    failures: dict[int, BaseException] = {}

    def run(rank: int) -> None:
        try:
            exchange = exchanges[rank]
            with Context._from_exchange(exchange, device, timeout, Deadline(timeout), secret) as ctx:
                results[rank] = fn(ctx)
        except BaseException as exc:
            failures[rank] = exc

    secret = shared_secret(None)
    exchanges = local_exchanges(n, secret)
    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(n)]
    for thread in threads:
        thread.start()
    deadline = Deadline(2 * timeout)
    for thread in threads:
        thread.join(deadline.remaining())
    if failures:
        rank = next((rank for rank, exc in failures.items() if _own(exc)), min(failures))
        raise RankError(rank, n, failures[rank]) from failures[rank]
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        raise TimeoutError(f"{', '.join(stuck)} of {n} still busy after {2 * timeout:.0f} s")
    return results


def _own(exc: BaseException) -> bool:
    """Whether a failure began on its own rank."""
    return not isinstance(exc, GloompiError) or (exc.reported_by is None and not isinstance(exc, ConnectionError))
