"""Exchange between threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..deadline import Deadline
from ..errors import RendezvousError
from .exchange import Exchange
from .signing import Signed

__all__ = ["LocalExchange", "local_exchanges"]

_WATCH_SECONDS = 0.1


class _Board:
    """Where the records of one round after another are put up."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.changed = threading.Condition()
        self.rounds: list[dict[int, bytes]] = []


class LocalExchange:
    """One thread's access to the board that all of them share."""

    def __init__(self, rank: int, board: _Board) -> None:
        self.rank = rank
        self.size = board.size
        self._board = board
        self._round = 0

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        board, number = self._board, self._round
        self._round += 1
        with board.changed:
            if len(board.rounds) == number:
                board.rounds.append({})
            records = board.rounds[number]
            records[self.rank] = record
            board.changed.notify_all()
            while len(records) < self.size:
                if deadline.expired():
                    missing = sorted(set(range(self.size)) - records.keys())
                    raise RendezvousError(f"ranks {missing} did not come within {deadline.timeout:.1f} s")
                board.changed.wait(deadline.before(_WATCH_SECONDS).timeout)
                watch()
        return [records[rank] for rank in range(self.size)]


def local_exchanges(size: int, secret: bytes = b"") -> list[Exchange]:
    """An exchange for each of `size` threads, which share the memory that a secret would be in."""
    board = _Board(size)
    return [Signed(LocalExchange(rank, board), secret) for rank in range(size)]
