"""gloompi: a communication channel of their own for programs that MPI has started.

>>> from mpi4py import MPI
>>> import numpy as np, gloompi
>>> with gloompi.Context.from_mpi(MPI.COMM_WORLD) as ctx:
...     total = ctx.allreduce(np.full(1000, ctx.rank, "f4"))

Logging goes through ``logging.getLogger("gloompi")``; GLOOMPI_LOG_LEVEL=debug prints it to stderr.
"""

import importlib as _importlib
import os as _os
import typing as _typing

from .context import Context
from .engine.operation import ANY_SOURCE, ANY_TAG
from .engine.recorder import CallRecord
from .errors import (
    AuthenticationError,
    ContextClosedError,
    GloompiError,
    MismatchError,
    OperationTimeoutError,
    PeerLostError,
    RendezvousError,
    SystemCallError,
)
from .message import Message
from .objects import Pickler
from .plans.messages import Status
from .request import Request
from .waiting import wait_all, wait_any, wait_some

if _typing.TYPE_CHECKING:
    from . import testing as testing
    from .stores.etcd import EtcdStore
    from .stores.file import FileStore
    from .stores.hash import HashStore
    from .stores.prefix import PrefixStore
    from .stores.redis import RedisStore
    from .stores.store import Store
    from .stores.tcp import TCPStore
    from .stores.zookeeper import ZooKeeperStore
    from .transport.device import Device
    from .transport.endpoint import Peer

__all__ = [
    "ANY_SOURCE",
    "ANY_TAG",
    "AuthenticationError",
    "CallRecord",
    "Context",
    "ContextClosedError",
    "Device",
    "EtcdStore",
    "FileStore",
    "GloompiError",
    "HashStore",
    "Message",
    "MismatchError",
    "OperationTimeoutError",
    "Peer",
    "PeerLostError",
    "Pickler",
    "PrefixStore",
    "RedisStore",
    "RendezvousError",
    "Request",
    "Status",
    "Store",
    "SystemCallError",
    "TCPStore",
    "ZooKeeperStore",
    "wait_all",
    "wait_any",
    "wait_some",
]

__version__ = "0.1.0"

# Loaded when they are asked for: many programs need none of them, and with what they need, stores would double the time of
# `import gloompi`.
_LATER = {
    "Device": "transport.device",
    "EtcdStore": "stores.etcd",
    "FileStore": "stores.file",
    "HashStore": "stores.hash",
    "Peer": "transport.endpoint",
    "PrefixStore": "stores.prefix",
    "RedisStore": "stores.redis",
    "Store": "stores.store",
    "TCPStore": "stores.tcp",
    "ZooKeeperStore": "stores.zookeeper",
}


def __getattr__(name: str) -> object:
    if name == "testing":
        return _importlib.import_module(".testing", __name__)
    if name not in _LATER:
        raise AttributeError(f"module 'gloompi' has no attribute {name!r}")
    return getattr(_importlib.import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "testing"})


def _log_to_stderr() -> None:
    """For people who cannot change the script: GLOOMPI_LOG_LEVEL makes the messages visible by itself."""
    import logging

    from .settings import value

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s[%(process)d] %(levelname)s: %(message)s"))
    log = logging.getLogger("gloompi")
    log.setLevel(value("GLOOMPI_LOG_LEVEL"))
    log.addHandler(handler)
    log.propagate = False


if _os.environ.get("GLOOMPI_LOG_LEVEL"):
    _log_to_stderr()
