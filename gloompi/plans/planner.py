"""Plans: a call of the user's, checked and brought to flat arrays before a byte is sent.

Everything that one rank can find wrong by itself is found here.
"""

from __future__ import annotations

from .groups import GroupPlans
from .messages import MessagePlans
from .movement import MovementPlans
from .objects import ObjectPlans
from .pieces import PiecePlans
from .reductions import ReductionPlans

__all__ = ["Planner"]


class Planner(MovementPlans, ReductionPlans, PiecePlans, ObjectPlans, MessagePlans, GroupPlans):
    """Makes plans for one Context."""
