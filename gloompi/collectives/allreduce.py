"""Allreduce: the same reduction on every rank, bit for bit."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Array
from ..engine.call import Call
from ..engine.operation import Steps
from ..reduction import Reduction
from .fold import Fold
from .partition import blocks, halves, power_of_two_within, prime_factors

__all__ = ["ALGORITHMS", "AllreduceAlgorithm", "allreduce", "pick"]

AllreduceAlgorithm = Literal["auto", "recursive_doubling", "halving_doubling", "ring", "bcube", "direct"]

# Up to here the number of steps is what counts, above it the number of bytes. Two ranks exchange the same bytes either
# way, in one step instead of two, but both reduce all: at 1 MiB it took 0.86 of the time of direct over AF_UNIX and of
# halving and doubling over TCP, at 2 MiB 1.04. 4 ranks on 2 cores: 0.4 to 0.8 of the time at 256 KiB, level at 512 KiB.
# More ranks: from what steps and bytes cost on a network of 10 Gbit/s, not measured.
_LATENCY_NBYTES = {2: 1024 * 1024, 3: 256 * 1024, 4: 256 * 1024}
_MANY_LATENCY_NBYTES = 128 * 1024

# Steps on the way back are numbered from here.
_BACK = 64


def pick(size: int, nbytes: int, op: Reduction, near: bool) -> str:
    """The algorithm that "auto" stands for: a function of what all ranks agree on; `near`: as for broadcast."""
    if nbytes <= _LATENCY_NBYTES.get(size, _MANY_LATENCY_NBYTES):
        return "recursive_doubling"
    if near:
        return "direct"
    if not op.commutative or power_of_two_within(size) == size:
        return "halving_doubling"
    return "ring"


def allreduce(call: Call, x: Array, out: Array, op: Reduction, algorithm: str) -> Steps:
    """Reduce `x` of all ranks into `out`: 1-d, contiguous, same dtype and length everywhere; one array, or apart."""
    return _alone(x, out) if call.size == 1 else ALGORITHMS[algorithm](call, x, out, op)


def _alone(x: Array, out: Array) -> Steps:
    if out is not x:
        out[:] = x
    yield ()


def recursive_doubling(call: Call, x: Array, out: Array, op: Reduction) -> Steps:
    """In step k, ranks 2^k apart exchange all they have and both reduce it.

    4 ranks: 0-1 and 2-3 exchange, then 0-2 and 1-3.

    floor(log2(size)) steps of nbytes; two more where size is no power of two (see `Fold`).  R. Thakur, R. Rabenseifner,
    W. Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005),
    doi:10.1177/1094342005051521.
    """
    fold = Fold.of(call.size)
    place, mine = (yield from fold.enter(call, x, out, op)) if fold.extra else (call.rank, x)
    if place is not None:
        # Both sides of an exchange compute the same: the lower ranks' operand first, and in one piece.
        incoming = out
        for step, peer in fold.partners(place):
            if mine is out and incoming is out:
                incoming = np.empty_like(out)
            yield call.exchange(peer, peer, step, mine, incoming)
            if peer < call.rank:
                op.apply(incoming, mine, out=out)
            else:
                op.apply(mine, incoming, out=out)
            mine = out
    if fold.extra:
        yield from fold.leave(call, out)


def halving_doubling(call: Call, x: Array, out: Array, op: Reduction) -> Steps:
    """Reduce-scatter by halving the vector, allgather by doubling it.

    4 ranks, vector quarters a b c d: 0-1 exchange halves (0 keeps ab), 2-3 likewise, then 0-2 and 1-3 exchange quarters
    (0 keeps a, 2 b, 1 c, 3 d); then back, each sending what it has reduced.

    2 floor(log2(size)) steps; 2 nbytes (p-1)/p bytes sent per rank, p being the power of two; two more steps of nbytes where
    size is no power of two.
    R. Rabenseifner, Optimization of collective reduction operations, ICCS 2004, doi:10.1007/978-3-540-24685-5_1.
    """
    fold = Fold.of(call.size)
    place, mine = (yield from fold.enter(call, x, out, op)) if fold.extra else (call.rank, x)
    if place is not None:
        way = [
            (step, fold.rank(half.partner), half.keep, half.give)
            for step, half in enumerate(halves(place, fold.places, len(out)), 1)
        ]
        results, sent = [], []
        for step, peer, keep, give in way:
            partial = call.receive_reduce(peer, step, mine[keep], out[keep], op)
            sent.append(call.send(peer, step, mine[give]))
            # Posted now, so that the peer is cleared to send by the time it has the result. It cannot come before the
            # peer has all of what is being sent, even if that is the same memory.
            results.append(call.receive(peer, _BACK + step, out[give]))
            yield partial
            mine = out
        for (step, peer, keep, _), result in zip(reversed(way), reversed(results), strict=True):
            sent.append(call.send(peer, _BACK + step, out[keep]))
            yield result
        yield sent
    if fold.extra:
        yield from fold.leave(call, out)


def ring(call: Call, x: Array, out: Array, op: Reduction) -> Steps:
    """Reduce-scatter and allgather around a ring, a block per rank.

    4 ranks: in the first step rank r sends block r to r + 1; each block is reduced at every stop of its way; after 3
    steps rank r has the result of block r + 1, which then travels on for 3 more steps.

    2 (size-1) steps, 2 nbytes (size-1)/size bytes per rank, for commutative operators.  P. Patarasuk, X. Yuan, Bandwidth
    optimal all-reduce algorithms for clusters of workstations, JPDC 69 (2009), doi:10.1016/j.jpdc.2008.09.002.
    """
    rank, size, count = call.rank, call.size, len(out)
    after, before = (rank + 1) % size, (rank - 1) % size
    part = blocks(count, size)
    # Every block is received once to be reduced and once as a result, so all receives can be posted now: their senders
    # are cleared long before they are ready.
    takes = [part[(rank - step - 1) % size] for step in range(size - 1)]
    partial = [call.receive_reduce(before, step, x[take], out[take], op) for step, take in enumerate(takes)]
    final = [call.receive(before, size + step, out[part[(rank - step) % size]]) for step in range(size - 1)]
    # Nothing that is being sent is received into before its next rank has it: what comes is made of it.
    mine, give, sent = x, part[rank], []
    for step in range(size - 1):
        sent.append(call.send(after, step, mine[give]))
        yield partial[step]
        mine, give = out, takes[step]
    for step in range(size - 1):
        sent.append(call.send(after, size + step, out[give]))
        yield final[step]
        give = part[(rank - step) % size]
    yield sent


def bcube(call: Call, x: Array, out: Array, op: Reduction) -> Steps:
    """Halving and doubling with groups in the place of pairs: one step for each prime factor of the number of ranks.

    6 ranks, 2 x 3: 0-1, 2-3 and 4-5 exchange halves; then 0-2-4 and 1-3-5 exchange thirds of what they kept; then back, each
    sending what it has reduced to the others of its groups.

    2 steps per prime factor, 2 nbytes (size-1)/size bytes sent per rank, for any number of ranks; a prime number is one
    group.  As Gloo's allreduce_bcube, after C. Guo et al., BCube, SIGCOMM 2009, doi:10.1145/1592568.1592577.
    """
    return _in_groups(call, x, out, op, prime_factors(call.size))


def direct(call: Call, x: Array, out: Array, op: Reduction) -> Steps:
    """Every rank reduces a block of all ranks, and gets the other blocks from those that have reduced them.

    4 ranks: 0 gets quarter a of 1, 2 and 3; then b of 1, c of 2, d of 3.

    2 steps, 2 (size-1) messages and 2 nbytes (size-1)/size bytes sent per rank, for any number of ranks: bcube with one
    group.
    """
    return _in_groups(call, x, out, op, [call.size])


def _in_groups(call: Call, x: Array, out: Array, op: Reduction, groups: list[int]) -> Steps:
    """Reduce in groups of neighbours, then in groups of those that have kept the same part, and so on; and back."""
    rank = call.rank
    start, stop, mine = 0, len(out), x
    way, sent, distance = [], [], 1
    for step, count in enumerate(groups, 1):
        digit = rank // distance % count
        members = [rank + (other - digit) * distance for other in range(count)]
        part = [slice(start + piece.start, start + piece.stop) for piece in blocks(stop - start, count)]
        sent += [call.send(peer, step, mine[part[other]]) for other, peer in enumerate(members) if other != digit]
        keep = part[digit]
        # The nearest ranks first, in both directions, so that operands stay in rank order.
        for other in [*range(digit - 1, -1, -1), *range(digit + 1, count)]:
            yield call.receive_reduce(members[other], step, mine[keep], out[keep], op)
            mine = out
        way.append((step, members, part, digit))
        start, stop, distance = keep.start, keep.stop, distance * count
    for step, members, part, digit in reversed(way):
        others = [other for other in range(len(members)) if other != digit]
        sent += [call.send(members[other], _BACK + step, out[part[digit]]) for other in others]
        yield [call.receive(members[other], _BACK + step, out[part[other]]) for other in others]
    # Those that a part was sent to have had it since they sent what was received into it.
    yield sent


ALGORITHMS = {
    "recursive_doubling": recursive_doubling,
    "halving_doubling": halving_doubling,
    "ring": ring,
    "bcube": bcube,
    "direct": direct,
}
