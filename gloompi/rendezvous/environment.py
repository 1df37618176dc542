"""Exchange over what the environment offers: a store by URL, MPI, or torchrun's address and port."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ..deadline import Deadline
from ..errors import RendezvousError
from ..launcher import Launcher, rank_variables, started_by
from ..settings import value
from ..store_url import shown
from ..stores.bounded import within
from ..stores.prefix import PrefixStore
from ..stores.url import open_store
from .exchange import Exchange
from .local import local_exchanges
from .mpi import exchange_over
from .store import exchange_through

__all__ = ["exchange_from_env"]

_log = logging.getLogger("gloompi")

_ADVICE = (
    "this mpi4py's MPI does not know that launcher (srun --mpi=list; the mpiexec of that MPI), or WORLD_SIZE is missing; "
    "GLOOMPI_STORE=URL does without MPI"
)


def exchange_from_env(
    secret: bytes, deadline: Deadline, trouble: Exception | None = None
) -> AbstractContextManager[Exchange]:
    """An exchange between the processes that the launcher has started together; `secret` signs their records.

    `trouble` is why this rank has no secret although it should: raised here, unless an MPI launcher has connected it with
    the others already, so that all can be told.

    In this order: the store that GLOOMPI_STORE names, with the launcher's rank and size; torchrun's RANK, WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT; the communicator of an MPI launcher; the same four variables set by hand; MPI.COMM_WORLD,
    which without a launcher is this process alone.

    Raises
    ------
    RendezvousError
        The environment says that there are several ranks, but not how they find each other, or they do not.
    ValueError, ImportError
        GLOOMPI_STORE names no store, or its package is missing.
    OSError
        Rank 0 cannot serve a store.
    """
    url: str | None = value("GLOOMPI_STORE")
    launcher = started_by(guess=bool(url))
    if launcher is None and os.environ.get("RANK") and os.environ.get("WORLD_SIZE"):
        raise RendezvousError(
            f"RANK={os.environ['RANK']!r} and WORLD_SIZE={os.environ['WORLD_SIZE']!r} must be numbers, the first below the "
            f"second"
        )
    if trouble is not None and (url or launcher is None or not launcher.mpi):
        raise trouble
    if url:
        if launcher is None:
            raise RendezvousError(
                "GLOOMPI_STORE is set, but no launcher has set rank and size; set RANK and WORLD_SIZE, or use "
                "Context.from_store(store, rank, size)"
            )
        return _through(url, launcher, secret, deadline)
    if launcher is not None and not launcher.mpi:
        return _through_rank_zero(launcher, secret, deadline)
    if _has_mpi():
        return _over_mpi(launcher, secret, deadline)
    told = rank_variables()
    if launcher is not None or told:
        raise RendezvousError(
            f"this process is one of several ({_shown(told)}), but no MPI library can be loaded; install one, or set "
            f"GLOOMPI_STORE=URL to do without"
        )
    _log.info("no launcher, no MPI library: this process is the only rank")
    return nullcontext(local_exchanges(1)[0])


@contextmanager
def _over_mpi(launcher: Launcher | None, secret: bytes, deadline: Deadline) -> Iterator[Exchange]:
    with exchange_over(None, secret, deadline) as exchange:
        told = rank_variables()
        beyond = any(rank.isdecimal() and int(rank) > 0 for rank in told.values())
        if exchange.size == 1 and (beyond if launcher is None else launcher.size > 1):
            who = f"this process is one of several ({_shown(told)})"
            if launcher is not None:
                who = f"{launcher.name} has started {launcher.size} processes"
            raise RendezvousError(f"{who}, but MPI.COMM_WORLD has 1 rank; {_ADVICE}")
        yield exchange


@contextmanager
def _through(url: str, launcher: Launcher, secret: bytes, deadline: Deadline) -> Iterator[Exchange]:
    serving = url.lower().startswith("tcp:") and launcher.rank == 0
    clients = launcher.size - 1 if serving else None
    with within(deadline):
        try:
            store = open_store(url, clients=clients, rank=launcher.rank, secret=secret or None, timeout=deadline.remaining())
        except ValueError as exc:  # what only the package of that store finds
            raise ValueError(f"GLOOMPI_STORE: {exc}") from exc
        except RendezvousError as exc:
            raise RendezvousError(f"GLOOMPI_STORE={shown(url)}: {exc.reason}") from exc
        named = PrefixStore(launcher.job, store) if launcher.job else store
        with store, exchange_through(named, launcher.rank, launcher.size, secret, deadline) as exchange:
            yield exchange


@contextmanager
def _through_rank_zero(launcher: Launcher, secret: bytes, deadline: Deadline) -> Iterator[Exchange]:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if launcher.size == 1:
        yield local_exchanges(1)[0]
        return
    if not address or not port.isdecimal():
        raise RendezvousError(
            f"RANK={launcher.rank} and WORLD_SIZE={launcher.size} are set, but MASTER_ADDR={address!r} and "
            f"MASTER_PORT={port!r} do not say where rank 0 is; set them, or GLOOMPI_STORE=URL"
        )
    # torchrun's agent listens on MASTER_PORT itself, with a protocol of its own, and says so. Nobody else may: whoever has
    # the port could be taken for rank 0, and if rank 0 served on the next one, he would get those who look there first.
    taken = launcher.name == "torchrun" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not 0 < int(port) + taken < 65536:
        raise RendezvousError(f"MASTER_PORT={port} leaves rank 0 no port to serve on; 1 to {65535 - taken} would")
    from ..stores.tcp import TCPStore

    with within(deadline):
        try:
            store = TCPStore(
                address,
                int(port) + taken,
                serve=launcher.rank == 0,
                clients=launcher.size - 1,
                rank=launcher.rank,
                secret=secret or None,
                timeout=deadline.remaining(),
            )
        except RendezvousError as exc:
            raise RendezvousError(f"MASTER_ADDR={address}, MASTER_PORT={port}: {exc.reason}") from exc
        # The store is this job's own: it needs no prefix, which spellings of MASTER_ADDR could tell apart.
        with store, exchange_through(store, launcher.rank, launcher.size, secret, deadline) as exchange:
            yield exchange


def _shown(variables: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in variables.items())


def _has_mpi() -> bool:
    if "mpi4py.MPI" in sys.modules:
        return True
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as exc:
        _log.info("MPI cannot be used: %s", exc)
        return False
    return True
