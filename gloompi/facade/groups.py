"""Groups of communicators: mpi4py's, which are local."""

from __future__ import annotations

from mpi4py import MPI as mpi

from ..context import Context
from .codes import exception

__all__ = ["group_of", "members"]


class _Group(mpi.Group):
    """A group of some of the world's ranks.

    MPI gives the same group each time it is asked for a communicator's.  Of communicators that it does not know each is
    another one; those of the same ranks in the same order are equal.
    """

    _ranks: tuple[int, ...] | None = None  # not of what mpi4py makes from it, which has this class too

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Group) and self and other and self._ranks is not None:
            return self._ranks == other._ranks
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # as mpi4py's


def group_of(context: Context) -> mpi.Group:
    """Return the group of a Context's ranks, which the caller may free."""
    ranks = tuple(context._conversation.ranks)
    if max(ranks) >= mpi.COMM_WORLD.size:
        raise NotImplementedError(
            f"groups are mpi4py's, whose world has {mpi.COMM_WORLD.size} ranks here: the ranks of gloompi.MPI have met "
            f"without MPI (GLOOMPI_STORE or torchrun); start them with mpiexec to have groups"
        )
    if ranks == tuple(range(mpi.COMM_WORLD.size)):
        return mpi.COMM_WORLD.Get_group()
    if ranks == (mpi.COMM_WORLD.rank,):
        return mpi.COMM_SELF.Get_group()
    world = mpi.COMM_WORLD.Get_group()
    try:
        found = _Group(world.Incl(list(ranks)))
    finally:
        world.Free()
    found._ranks = ranks
    return found


def members(group: mpi.Group, context: Context) -> tuple[int, ...]:
    """Return the ranks that a group's members have in a Context.

    Raises
    ------
    mpi4py.MPI.Exception
        ERR_GROUP: one of them is none of its ranks.
    """
    mine = group_of(context)
    try:
        found = tuple(group.Translate_ranks(None, mine))
    finally:
        mine.Free()
    if mpi.UNDEFINED in found:
        raise exception(
            mpi.ERR_GROUP, f"{found.count(mpi.UNDEFINED)} of the group's {len(found)} ranks are not in the communicator"
        )
    return found
