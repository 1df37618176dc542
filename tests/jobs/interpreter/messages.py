"""Messages between pairs of ranks, in patterns that cannot deadlock and have one outcome, whatever the timing.

A pattern gives each rank whom it sends to and receives from.  `how` names the two calls, such as ``["Ssend", "Probe"]``;
small letters send objects.  Each message of a step has a tag of its own, so that the receives can come in another order.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .completion import Pending
from .dtypes import DTYPES, filler, recorded, values
from .objects import made_object, plain
from .scene import TAGS_PER_STEP, Scene
from .spellings import Block

PATTERNS = ("ring", "pairs", "line", "to one", "from one", "all")

_BOTH = ("Sendrecv", "Sendrecv_replace", "Isendrecv", "Isendrecv_replace", "sendrecv")
_SENT_LATER = {"Isend", "Issend", "Ibsend", "Send_init", "Ssend_init", "isend", "issend"}
_RECEIVED_LATER = {"Irecv", "Recv_init", "irecv"}
# For a message to oneself, and where all send to all, a call that waits for the receiver would wait for ever.
_INSTEAD = {"Send": "Isend", "Ssend": "Issend", "Bsend": "Isend", "send": "isend", "ssend": "issend", "bsend": "isend"}

# Sender and receiver of the same kind of message.  Rsend needs a receive that is posted.
WAYS = [
    *([send, receive] for send in ("Send", "Ssend", "Isend", "Issend", "Send_init", "Ssend_init", "Bsend", "Ibsend")
      for receive in ("Recv", "Irecv", "Recv_init", "Probe", "Iprobe", "Mprobe", "Mprobe Irecv", "Improbe")),
    ["Rsend", "Irecv"], ["Rsend", "Recv_init"], ["Irsend", "Irecv"],
    *([send, receive] for send in ("send", "ssend", "isend", "issend", "bsend")
      for receive in ("recv", "irecv", "probe", "iprobe", "mprobe", "mprobe irecv", "improbe")),
]  # fmt: skip
WAYS_OF_BOTH = [[name, name] for name in _BOTH]
PATTERNS_OF_BOTH = ("ring", "pairs", "line")

DERIVED = ("none", "contiguous", "vector", "indexed", "resized", "subarray")


@dataclass
class Posted:
    """What a step has received already, and what is pending; `fenced` if it must end with a barrier."""

    results: list[Any] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    fenced: bool = False


@dataclass(frozen=True)
class Neighbours:
    """Whom a rank sends to and receives from; `receives_first` breaks the cycle where calls wait for each other."""

    dests: list[int]
    sources: list[int]
    receives_first: bool


def _neighbours(step: dict[str, Any], rank: int, size: int, nobody: int) -> Neighbours:
    root, shift, others = step["root"] % size, step["shift"] % size, [r for r in range(size) if r != step["root"] % size]
    if step["pattern"] == "ring":
        # Ranks of one cycle are congruent modulo the divisor: with 4 ranks and a shift of 2, 0-2 and 1-3.
        return Neighbours([(rank + shift) % size], [(rank - shift) % size], rank < math.gcd(size, shift))
    if step["pattern"] == "pairs":
        partner = rank ^ 1 if rank ^ 1 < size else nobody
        return Neighbours([partner], [partner], rank % 2 == 1)
    if step["pattern"] == "line":
        return Neighbours([rank + 1 if rank + 1 < size else nobody], [rank - 1 if rank else nobody], False)
    if step["pattern"] == "to one":
        return Neighbours([], others, False) if rank == root else Neighbours([root], [], False)
    if step["pattern"] == "from one":
        return Neighbours(others, [], False) if rank == root else Neighbours([], [root], False)
    return Neighbours(list(range(size)), list(range(size)), False)


def messages(scene: Scene, step: dict[str, Any], comm: Any, tag: int, *, alone: bool = True) -> Posted:
    """Send and receive; what the calls leave pending is in the result.

    Not `alone`: other operations are pending on the communicator; any source and any tag together could match theirs.
    """
    exchange = _Exchange(scene, step, comm, tag, alone)
    if step["how"][0] in _BOTH:
        exchange.both()
    else:
        exchange.separately()
    return exchange.posted


class _Exchange:
    def __init__(self, scene: Scene, step: dict[str, Any], comm: Any, tag: int, alone: bool) -> None:
        self.MPI, self.scene, self.step, self.comm, self.first_tag = scene.MPI, scene, step, comm, tag
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.at = _neighbours(step, self.rank, self.size, self.MPI.PROC_NULL)
        self.send_name, self.receive_name = step["how"]
        self.objects = self.send_name.islower()
        self.dtype = DTYPES[step["dtype"]]
        self.number = min(len(step["counts"]), TAGS_PER_STEP)  # of messages to each receiver
        self.any_source = step["any_source"] and self.MPI.PROC_NULL not in self.at.sources
        self.any_tag = step["any_tag"] and (alone or not step["any_source"])
        self.any_of_many = step["any_source"] and step["pattern"] in ("to one", "all")
        self.posted = Posted(fenced=alone and step["any_source"] and step["any_tag"])

    # -- what is sent

    def count(self, source: int, dest: int, number: int) -> int:
        counts = self.step["counts"]
        return counts[(source + dest + number) % len(counts)] + self.step["count"]

    def receivable(self, source: int, number: int) -> int:
        """The longest that can arrive, and some more."""
        sources = self.at.sources if self.any_of_many else [source]
        numbers = range(self.number) if self.any_tag or self.any_of_many else [number]
        longest = max(self.count(source, self.rank, number) for source in sources for number in numbers)
        return longest + self.step["spelling"] % 3

    def message(self, dest: int, number: int) -> Any:
        """The argument of a sending call."""
        count, salt = self.count(self.rank, dest, number), self.step["salt"] + number
        if self.objects:
            return made_object(self.step["kind"], count, self.rank, salt)
        derived, whole = self.derived(count, "send")
        if derived is not None:
            whole[:] = values(self.dtype, len(whole), self.rank, salt)
            return [whole, count, derived]
        block = Block(self.MPI, self.dtype, count, self.step["spelling"] + self.rank)
        block.content[:] = values(self.dtype, count, self.rank, salt)
        return block.spec

    def room(self, count: int) -> tuple[Any, np.ndarray, Any]:
        """The argument of a receiving call, all of its memory, and the datatype that its count is told in."""
        derived, whole = self.derived(count, "receive")
        if derived is not None:
            return [whole, count, derived], whole, derived
        datatype = getattr(self.MPI, self.dtype.mpi)
        if self.step["derived"] != "none":  # as many as the sender's datatype holds
            count *= self.elements
        block = Block(self.MPI, self.dtype, count, self.step["spelling"] + self.rank + 7)
        return block.spec, block.whole, datatype

    @property
    def elements(self) -> int:
        """Basic elements in one derived datatype."""
        return {"none": 1, "contiguous": 3, "vector": 4, "indexed": 3, "resized": 2, "subarray": 4}[self.step["derived"]]

    def derived(self, count: int, side: str) -> tuple[Any, np.ndarray]:
        """A derived datatype and memory for `count` of it, if this step has one on this side."""
        name, base = self.step["derived"], getattr(self.MPI, self.dtype.mpi)
        sides = {"send": 0, "receive": 1}
        if name == "none" or self.objects:
            return None, np.empty(0)
        if self.step["shift"] % 3 == 1 + sides[side]:  # on one side only: the other has as many basic elements
            if side == "receive":
                return None, np.empty(0)
            return self.scene.datatype(base.Create_contiguous(self.elements)), filler(self.dtype, count * self.elements)
        gap = self.step["gap"]
        made, extent = {
            "contiguous": lambda: (base.Create_contiguous(3), 3),
            "vector": lambda: (base.Create_vector(2, 2, 2 + gap), 4 + gap),
            "indexed": lambda: (base.Create_indexed([1, 2], [3 + gap, 0]), 4 + gap),
            "resized": lambda: (base.Create_contiguous(2).Create_resized(0, (3 + gap) * base.Get_size()), 3 + gap),
            "subarray": lambda: (base.Create_subarray([3, 4], [2, 2], [1, 1]), 12),
        }[name]()
        return self.scene.datatype(made), filler(self.dtype, count * extent)

    def told(self, status: Any, datatype: Any) -> list[Any]:
        """What a status says; an object's length is pickle's and nobody's business."""
        told = [status.Get_source(), status.Get_tag(), status.Is_cancelled()]
        if not self.objects:
            told += [status.Get_count(datatype), status.Get_elements(datatype), status.Get_count(self.MPI.BYTE)]
        return told

    # -- calls

    def separately(self) -> None:
        order = list(range(self.number))
        waits = self.send_name not in _SENT_LATER and self.send_name != "Irsend"
        if waits and (self.step["pattern"] == "all" or self.at.dests == [self.rank]):
            self.send_name, waits = _INSTEAD.get(self.send_name, self.send_name), self.send_name not in _INSTEAD
        later = self.receive_name in _RECEIVED_LATER
        if not self.any_tag and not self.any_of_many and (later or not waits):
            # Nobody waits for the first message to be received before the last is sent.
            random.Random(self.step["shuffle"] + self.rank).shuffle(order)
        ready = self.send_name in ("Rsend", "Irsend")
        if self.posted.fenced:
            self.comm.Barrier()
        if later:
            self.receive_all(order)
        if ready:
            self.comm.Barrier()
        if not later and waits and self.at.receives_first:
            self.receive_all(order)
            self.send_all()
        else:
            self.send_all()
            if not later:
                self.receive_all(order)

    def send_all(self) -> None:
        for number in range(self.number):
            for dest in self.at.dests:
                name = self.call(self.send_name, dest)
                request = getattr(self.comm, name)(self.message(dest, number), dest, self.tag(number))
                if request is not None:
                    self.post(request, lambda *_: "sent", persistent=name.endswith("_init"))

    def receive_all(self, order: list[int]) -> None:
        received = []
        for number in order:
            for source in self.at.sources:
                asked = self.MPI.ANY_SOURCE if self.any_source else source
                tag = self.MPI.ANY_TAG if self.any_tag else self.tag(number)
                received.append(self.receive(asked, tag, self.receivable(source, number)))
        results = [result for result in received if result is not None]
        if self.any_of_many:  # stable: of one source, the order of the receives is the order of its messages
            results.sort(key=lambda result: result[0])
        self.posted.results += results

    def tag(self, number: int) -> int:
        # To one from any source: all messages of one tag, and so the order of each source's is the order of sending.
        return self.first_tag if self.any_of_many else self.first_tag + number

    def call(self, name: str, peer: int) -> str:
        # MPICH takes a started persistent request of nobody's for an inactive one: Waitsome and Testsome never tell its end.
        if peer == self.MPI.PROC_NULL:
            return {"Send_init": "Isend", "Ssend_init": "Issend", "Recv_init": "Irecv"}.get(name, name)
        return name

    @property
    def repeatable(self) -> bool:
        # With any source of many, a fast source's next message could match what waits for a slow one's.
        return self.step["how"] in (["Send_init", "Recv_init"], ["Ssend_init", "Recv_init"]) and not self.any_of_many

    def receive(self, source: int, tag: int, count: int) -> Any:
        if self.objects:
            return self.receive_object(source, tag, count)
        spec, whole, datatype = self.room(count)
        status, name = self.MPI.Status(), self.call(self.receive_name, source)

        def outcome(status: Any, _: Any) -> list[Any]:
            return [*self.told(status, datatype), recorded(whole)]

        if name in _RECEIVED_LATER:
            request = getattr(self.comm, name)(spec, source, tag)
            self.post(request, outcome, persistent=name == "Recv_init", received=True)
            return None
        if name == "Recv":
            self.comm.Recv(spec, source, tag, status)
            return outcome(status, None)
        found = self.probed(name.split()[0], source, tag, status)
        seen = self.told(status, datatype)
        if found is None:
            self.comm.Recv(spec, status.Get_source(), status.Get_tag(), status)
        elif name == "Mprobe Irecv":
            request = found.Irecv(spec)
            self.post(request, lambda status, given: [*outcome(status, given), seen], received=True)
            return None
        else:
            found.Recv(spec, status)
        return [*outcome(status, None), seen, found is not None and bool(found)]

    def receive_object(self, source: int, tag: int, count: int) -> Any:
        status, name = self.MPI.Status(), self.receive_name

        def outcome(status: Any, given: Any) -> list[Any]:
            return [*self.told(status, None), plain(given)]

        if name == "irecv":
            # Without room of the caller's, mpi4py receives 32 KiB at most.
            room = None if count < 500 else bytearray(32 * count)
            self.post(self.comm.irecv(room, source, tag), outcome, received=True)
            return None
        if name == "recv":
            given = self.comm.recv(None, source, tag, status)
            return outcome(status, given)
        found = self.probed(name.split()[0], source, tag, status)
        seen = self.told(status, None)
        if found is None:
            given = self.comm.recv(None, status.Get_source(), status.Get_tag(), status)
        elif name == "mprobe irecv":
            self.post(found.irecv(), lambda status, given: [*outcome(status, given), seen], received=True)
            return None
        else:
            given = found.recv(status)
        return [*outcome(status, given), seen]

    def post(
        self, request: Any, outcome: Callable[[Any, Any], Any], *, persistent: bool = False, received: bool = False
    ) -> None:
        if persistent:
            request.Start()
        repeatable = persistent and self.repeatable
        group = self.first_tag if received and self.any_of_many else None
        self.posted.pending.append(Pending(request, outcome, persistent, repeatable, gives_object=self.objects, group=group))

    def probed(self, name: str, source: int, tag: int, status: Any) -> Any:
        """Wait for a message by one of the probes; the message if it is a matched probe."""
        probe = getattr(self.comm, name)
        answer = probe(source, tag, status)
        while not answer and name.lower() in ("iprobe", "improbe"):
            os.sched_yield()
            answer = probe(source, tag, status)
        return None if isinstance(answer, bool) else answer

    def both(self) -> None:
        """Send and receive in one call."""
        for number in range(self.number):
            self.sendrecv(self.at.dests[0], self.at.sources[0], number)

    def sendrecv(self, dest: int, source: int, number: int) -> None:
        name, comm, status = self.send_name, self.comm, self.MPI.Status()
        asked = self.MPI.ANY_SOURCE if self.any_source else source
        tag = self.tag(number)
        asked_tag = self.MPI.ANY_TAG if self.any_tag else tag
        if self.posted.fenced and number == 0:
            comm.Barrier()
        if name == "sendrecv":
            given = comm.sendrecv(self.message(dest, number), dest, tag, None, asked, asked_tag, status)
            self.posted.results.append([*self.told(status, None), plain(given)])
            return
        if name.endswith("replace"):
            # One memory for both, and so one length for all.
            count, datatype = self.step["count"] + self.step["counts"][number], getattr(self.MPI, self.dtype.mpi)
            block = Block(self.MPI, self.dtype, count, self.step["spelling"] + self.rank)
            block.content[:] = values(self.dtype, count, self.rank, self.step["salt"] + number)
            whole, arguments = block.whole, (block.spec, dest, tag, asked, asked_tag)
        else:
            length = self.receivable(source, number) if source != self.MPI.PROC_NULL else 1
            spec, whole, datatype = self.room(length)
            arguments = (self.message(dest, number), dest, tag, spec, asked, asked_tag)

        def outcome(status: Any, _: Any) -> list[Any]:
            return [*self.told(status, datatype), recorded(whole)]

        if name.startswith("I"):  # MPICH leaves it open what the status of such a request says
            self.post(getattr(comm, name)(*arguments), lambda *_: recorded(whole), received=True)
        else:
            getattr(comm, name)(*arguments, status)
            self.posted.results.append(outcome(status, None))
