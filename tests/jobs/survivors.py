"""Ranks that are children of this process lose some of their own, shrink, and go on.

Argument: a JSON object.  ``program`` is a function of this module, ``size`` the number of ranks, ``transport`` "unix", "tcp"
or "tls"; the rest is the program's.
"""

import gc
import json
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings

import numpy as np
from aftermath import Remains, outcome_of
from report import facts_of, report

from gloompi import Context, ContextClosedError, Device, FileStore, PeerLostError
from gloompi.engine.remnants import Remnants

TIMEOUT = 30.0


class Rank:
    """What a program is given."""

    def __init__(self, rank, options, folder):
        self.rank, self.size = rank, options["size"]
        self.options = options
        self.gates = FileStore(os.path.join(folder, "gates"))  # no rank waits for another over what is tested
        self._meeting = os.path.join(folder, "meeting")
        self.errors = []
        self.views = []
        self.seconds = []

    def connect(self):
        return self.connect_again("first")

    def connect_again(self, name):
        transport = self.options["transport"]
        device = Device(tls=True, transport="tcp") if transport == "tls" else Device(transport=transport)
        timeout = self.options.get("timeout", TIMEOUT)
        with FileStore(os.path.join(self._meeting, name)) as store:
            return Context.from_store(store, self.rank, self.size, device=device, timeout=timeout, connect_timeout=60)

    def open(self, gate):
        """Let those go on that wait for this rank at a gate."""
        self.gates.set(f"{gate}/{self.rank}", b"1")

    def wait(self, gate, ranks):
        self.gates.wait([f"{gate}/{rank}" for rank in ranks], timeout=60)

    def die(self):
        report(self.rank, killed=time.monotonic())
        os.kill(os.getpid(), signal.SIGKILL)

    def fails(self, ctx, operation):
        """Run an operation that must fail, and remember how."""
        outcome = outcome_of(operation)
        assert outcome["error"], "nothing has failed"
        assert ctx.closed
        self.errors.append(outcome)

    def shrunk(self, ctx, dying=False, **options):
        """Shrink, and check what comes of it; `dying`: another rank may die meanwhile."""
        began = time.monotonic()
        fewer = ctx.shrink(**options)
        self.seconds.append(time.monotonic() - began)
        assert ctx.closed
        # What a third rank says of one that has died since comes with its last word, where both are in one encrypted read.
        assert dying or not fewer.closed
        assert fewer.timeout == ctx.timeout
        assert fewer.history() == []
        assert [peer.rank for peer in fewer.peers] == list(range(fewer.size))
        assert fewer.peers[fewer.rank].pid == os.getpid()
        assert fewer.peers[fewer.rank].transport == "self"
        assert {peer.transport for peer in fewer.peers} <= {"self", self.options["transport"]}
        assert outcome_of(ctx.barrier)["error"] == outcome_of(ctx.barrier)["error"] != ""
        return fewer

    def meet(self, ctx):
        """Who is there, by the first ranks."""
        view = [int(rank) for rank in ctx.allgather(np.array(self.rank))]
        assert [peer.pid for peer in ctx.peers] == ctx.allgather_object(os.getpid())
        self.views.append(view)
        return view


def check(ctx):
    """All kinds of operations, on both sides of what is sent without asking."""
    rank, size = ctx.rank, ctx.size
    total = size * (size + 1) // 2
    for count in (1, 1000, 100_003):
        base = np.arange(count) % 97 + 1.0
        for algorithm in ("auto", "ring", "recursive_doubling"):
            np.testing.assert_array_equal(ctx.allreduce(base * (rank + 1), algorithm=algorithm), base * total)
        for root in range(size):
            x = base * (root + 2) if rank == root else np.zeros(count)
            np.testing.assert_array_equal(ctx.broadcast(x, root=root), base * (root + 2))
            found = ctx.gather(base + rank, root=root)
            assert (found is None) == (rank != root)
            if found is not None:
                np.testing.assert_array_equal(found, [base + other for other in range(size)])
        np.testing.assert_array_equal(ctx.allgather(base - rank), [base - other for other in range(size)])
        blocks = np.stack([base * (rank + 1) + other for other in range(size)])
        expected = [base * (other + 1) + rank for other in range(size)]
        np.testing.assert_array_equal(ctx.alltoall(blocks), expected)
        np.testing.assert_array_equal(ctx.scan(base * (rank + 1)), base * ((rank + 1) * (rank + 2) // 2))
        out = np.empty(count)
        status = ctx.sendrecv(base + rank, (rank + 1) % size, out, (rank - 1) % size, sendtag=count, recvtag=count)
        assert (status.source, status.tag, status.nbytes) == ((rank - 1) % size, count, out.nbytes)
        np.testing.assert_array_equal(out, base + (rank - 1) % size)
    assert ctx.allgather_object({"rank": rank}) == [{"rank": other} for other in range(size)]
    with ctx.dup() as twin, ctx.split(rank % 2) as half:
        assert twin.allreduce(np.ones(3))[0] == size
        np.testing.assert_array_equal(half.allgather(np.array(rank)), range(rank % 2, size, 2))
    ctx.barrier()


def working(me):
    """Allreduces, in which ranks die by plan, until ``steps`` of them are done by those that are left.

    ``victims``: by rank, the step and the moment: "before" the call, "amid" it, or, a number, at that word of the shrinking
    which follows the loss of another in this step.  With ``gather`` nobody shrinks before all have met a loss and told it.
    """
    victims = {int(rank): plan for rank, plan in me.options["victims"].items()}
    base = np.arange(me.options["count"]) % 1000 * 3.0
    killed = victims.get(me.rank)

    def amid(_signal, _frame):
        me.die()

    signal.signal(signal.SIGALRM, amid)
    ctx = me.connect()
    step = 0
    while step < me.options["steps"]:
        if killed is not None and killed[0] == step:
            if killed[1] == "before":
                me.die()
            if killed[1] == "amid":
                signal.setitimer(signal.ITIMER_REAL, 0.002)
            else:
                die_at_word(me, killed[1])
        began = time.monotonic()
        try:
            out = ctx.allreduce(base * (ctx.rank + 1))
        except PeerLostError as exc:
            me.errors.append({**facts_of(exc), "began": began, "ended": time.monotonic()})
            if me.options.get("gather"):
                gate = f"failed {ctx.size}"
                me.open(gate)
                me.wait(gate, [rank for rank in range(me.size) if rank not in victims])
            ctx, step = settled(me, ctx, step)
            continue
        np.testing.assert_array_equal(out, base * (ctx.size * (ctx.size + 1) // 2))
        step += 1
    check(ctx)
    return ctx


def settled(me, ctx, step):
    """Shrink until nobody dies meanwhile; ranks may be a step apart."""
    dying = any(isinstance(moment, int) for _, moment in me.options.get("victims", {}).values())  # at a word
    while True:
        ctx = me.shrunk(ctx, dying)
        try:
            me.meet(ctx)
            return ctx, int(ctx.allreduce(np.array([step]), op="min")[0])
        except PeerLostError as exc:
            me.errors.append({**facts_of(exc), "began": 0.0, "ended": 0.0})


def die_at_word(me, number):
    say = Remnants.say
    said = []

    def last(remnants, rank, word):
        said.append(word)
        if len(said) == number:
            me.die()
        say(remnants, rank, word)

    Remnants.say = last


def lost(me, ctx, victim):
    """Have a rank die while nobody does anything."""
    end = os.pidfd_open(ctx.peers[victim].pid) if me.rank != victim else -1
    ctx.barrier()
    me.open("idle")
    if me.rank == victim:
        me.wait("idle", range(me.size))
        me.die()
    select.select([end], [], [])
    os.close(end)


def idle(me):
    """Rank ``victim`` dies while nobody does anything."""
    ctx = me.connect()
    lost(me, ctx, me.options["victim"])
    me.fails(ctx, ctx.barrier)
    fewer = me.shrunk(ctx)
    me.meet(fewer)
    check(fewer)
    return fewer


def away(me):
    """After the loss of rank 0, rank 1 stays away from shrinking; ``stopped``: it has no choice."""
    ctx = me.connect()
    pid = ctx.peers[1].pid
    lost(me, ctx, 0)
    stops = me.options["stopped"]
    if me.rank == 1:
        if stops:
            os.kill(pid, signal.SIGSTOP)
        else:
            me.wait("late", [2, 3])
        me.fails(ctx, ctx.barrier)
        me.wait("late", [2, 3])
        ctx, _ = settled(me, ctx, 0)  # the others' words are there, but they have given up, and are gone
        return ctx
    me.fails(ctx, ctx.barrier)
    me.fails(ctx, lambda: ctx.shrink(timeout=1.0))
    outcome = outcome_of(ctx.shrink)
    assert outcome["error"] == "ContextClosedError", outcome
    me.open("late")
    if stops and me.rank == 2:
        me.wait("late", [2, 3])
        os.kill(pid, signal.SIGCONT)
    return ctx


def closing(me):
    """After the loss of rank 0, rank 1 does not go on: each ``way`` to free what is left tells the others."""
    ctx = me.connect()
    lost(me, ctx, 0)
    way = me.options["way"]
    if me.rank != 1:
        me.fails(ctx, ctx.barrier)
        fewer = me.shrunk(ctx)
        me.meet(fewer)
        if way == "fork":
            me.open("shrunk")
        return fewer
    if way == "with":
        try:
            with ctx:
                ctx.barrier()
        except PeerLostError:
            pass
        return None
    me.fails(ctx, ctx.barrier)
    if way == "fork":  # a child that lives on has none of the connections
        if not os.fork():
            me.wait("shrunk", [2, 3])
            os._exit(0)
        ctx.close()
        os.wait()
    elif way == "close":
        ctx.close()
    elif way == "abort":
        ctx.abort("enough")
    return None  # or it is collected


def misuse(me):
    """Contexts that cannot be shrunk, and say why."""
    ctx = me.connect()
    texts = []

    def refused(broken, kind):
        try:
            broken.shrink()
        except kind as exc:
            texts.append(str(exc))
        else:
            raise AssertionError("it has shrunk")

    refused(ctx, RuntimeError)
    ctx.barrier()  # it still works
    with me.connect_again("closed") as closed:
        closed.barrier()
    refused(closed, ContextClosedError)
    aborted = me.connect_again("aborted")
    if me.rank == 1:
        aborted.abort("enough")
        refused(aborted, ContextClosedError)
    else:
        me.fails(aborted, aborted.barrier)
        fewer = me.shrunk(aborted)
        assert me.meet(fewer) == [rank for rank in range(me.size) if rank != 1]
        refused(aborted, ContextClosedError)
        fewer.close()
    me.errors.append({"texts": texts})
    return ctx


def children(me):
    """Contexts that share their connections, and rank 1 dies: the children are closed first, or shrunk themselves."""
    ctx = me.connect()
    twin, half = ctx.dup(), ctx.split(me.rank % 2)
    lost(me, ctx, 1)
    me.fails(twin, twin.barrier)
    shrink = me.options["shrink"]
    if shrink == "parent":
        twin.close()
        half.abort("not needed")
        fewer = me.shrunk(ctx)
        assert half.closed
    else:
        fewer = half.shrink()
        for broken in (ctx, twin):
            outcome = outcome_of(broken.shrink)
            assert outcome["error"] == "ContextClosedError", outcome
    me.meet(fewer)
    check(fewer)
    return fewer


def alone(me):
    """A Context of one rank breaks as others do."""
    ctx = me.connect()
    me.fails(ctx, lambda: ctx.recv(np.empty(1), 0, timeout=0.01))
    fewer = me.shrunk(ctx)
    me.meet(fewer)
    check(fewer)
    return fewer


def run(rank, options, folder):
    me = Rank(rank, options, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remains = Remains()
        ctx = globals()[options["program"]](me)
        if ctx is not None:
            ctx.close()
        del ctx
        me.gates.close()
        gc.collect()
        report(rank, views=me.views, errors=me.errors, seconds=me.seconds, remains=remains.new())


def main():
    options = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        pids = []
        for rank in range(options["size"]):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    run(rank, options, folder)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    sys.exit(any(code not in (0, -signal.SIGKILL) for code in codes))


if __name__ == "__main__":
    main()
