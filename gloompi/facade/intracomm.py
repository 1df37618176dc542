"""Comm and Intracomm: all that the facade's communicators can do."""

from __future__ import annotations

from mpi4py import MPI as mpi

from ..signatures import public
from .collectives import CollectiveComm
from .matched import Message
from .messages import MessageComm
from .objects import ObjectComm
from .requests import Prequest, Request
from .unsupported import refuse_rest

__all__ = ["COMM_NULL", "Comm", "Intracomm"]


@public
class Comm(CollectiveComm, MessageComm, ObjectComm):
    """As mpi4py.MPI.Comm, over sockets."""

    __module__ = "gloompi.MPI"

    @classmethod
    def Get_parent(cls) -> Comm:
        """Null: no process of gloompi.MPI has been spawned."""
        null: Comm = COMM_NULL
        return null


class Intracomm(Comm):
    """As mpi4py.MPI.Intracomm, over sockets."""

    __module__ = "gloompi.MPI"


Comm._plain = Intracomm

refuse_rest(Request, mpi.Request)
refuse_rest(Prequest, mpi.Prequest)
refuse_rest(Message, mpi.Message)
refuse_rest(Comm, mpi.Comm)
refuse_rest(Intracomm, mpi.Intracomm)

COMM_NULL = Comm()
