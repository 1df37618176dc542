"""The operations of a Context: what ranks do together, each in a blocking and a non-blocking form."""

from __future__ import annotations

from .messages import Messages
from .movement import Movement
from .objects import Objects
from .pieces import Pieces
from .reductions import Reductions

__all__ = ["Operations"]


class Operations(Movement, Reductions, Pieces, Objects, Messages):
    """Collectives and messages, over an engine that somebody else opens and closes."""
