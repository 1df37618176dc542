"""The mesh of threads: everybody connected to everybody, or the same error on all."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from time import monotonic
from typing import Any

import pytest
from test_errors import SPEECHLESS

from gloompi.deadline import Deadline
from gloompi.errors import RendezvousError
from gloompi.rendezvous.connecting import Connecting
from gloompi.rendezvous.exchange import Exchange
from gloompi.rendezvous.local import local_exchanges
from gloompi.rendezvous.mesh import Mesh, connect
from gloompi.rendezvous.record import Record
from gloompi.transport import device as device_module
from gloompi.transport import interfaces
from gloompi.transport.device import Device
from gloompi.transport.endpoint import Peer
from gloompi.transport.handshake import Session
from gloompi.transport.interfaces import Interface

pytestmark = pytest.mark.usefixtures("nothing_leaks")

HOST, PID = socket.gethostname(), os.getpid()
LO = Interface("lo", True, (ip_interface("127.0.0.1/8"),))


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "interfaces", lambda: [LO])


def meet(exchanges: list[Exchange], devices: list[Device | None], timeout: float = 20.0) -> list[Mesh | BaseException]:
    """`connect` in a thread per exchange; what each rank got or raised."""

    def rank(exchange: Exchange, device: Device | None) -> Mesh | BaseException:
        try:
            return connect(exchange, device, Deadline(timeout))
        except BaseException as exc:
            return exc

    with ThreadPoolExecutor(len(exchanges)) as pool:
        return list(pool.map(rank, exchanges, devices))


def together(devices: list[Device | None], timeout: float = 20.0) -> list[Mesh | BaseException]:
    return meet(list(local_exchanges(len(devices))), devices, timeout)


def meshes(results: list[Mesh | BaseException]) -> list[Mesh]:
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]


def close(found: list[Mesh]) -> None:
    for mesh in found:
        for sock in mesh.sockets:
            if sock is not None:
                sock.close()


def one_failure(results: list[Mesh | BaseException]) -> RendezvousError:
    """The error that all ranks have raised."""
    texts = {str(result) for result in results}
    assert len(texts) == 1, texts
    assert all(type(result) is RendezvousError for result in results)
    return results[0]  # type: ignore[return-value]


# -- success ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "family", "taken"), [("auto", socket.AF_UNIX, "unix"), ("unix", socket.AF_UNIX, "unix"),
                                       ("tcp", socket.AF_INET, "tcp")]
)  # fmt: skip
@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_everybody_is_connected_to_everybody(size: int, transport: str, family: int, taken: str) -> None:
    found = meshes(together([Device(transport=transport)] * size))
    try:
        for rank, mesh in enumerate(found):
            assert len(mesh.peers) == len(mesh.sockets) == size
            assert mesh.sockets[rank] is None
            assert mesh.peers[rank] == Peer(rank, HOST, PID, "self", "")
            for peer, sock in enumerate(mesh.sockets):
                if sock is None:
                    assert peer == rank
                    continue
                assert (sock.family, sock.getblocking()) == (family, False)
                assert (mesh.peers[peer].rank, mesh.peers[peer].transport) == (peer, taken)
                sock.send(bytes([rank, peer]))
        for rank, mesh in enumerate(found):
            for peer, sock in enumerate(mesh.sockets):
                if sock is not None:
                    assert sock.recv(100) == bytes([peer, rank])
    finally:
        close(found)


def test_listening_sockets_are_closed_when_the_mesh_is_complete() -> None:
    before = len(os.listdir("/proc/self/fd"))
    found = meshes(together([None] * 4))
    assert len(os.listdir("/proc/self/fd")) == before + 4 * 3
    close(found)


def test_fixed_port_is_free_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(3):
        # One port for each rank: the second would find the first's taken.
        close(meshes(together([Device(transport="tcp", port=port), Device(transport="tcp")])))


@pytest.mark.parametrize(("cores", "crowded"), [(1, True), (2, True), (3, False), (64, False)])
def test_crowded_and_shared(monkeypatch: pytest.MonkeyPatch, cores: int, crowded: bool) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    found = meshes(together([None] * 3))
    close(found)
    assert [(mesh.crowded, mesh.shared) for mesh in found] == [(crowded, True)] * 3


@pytest.mark.parametrize(
    ("bound", "crowded"),
    [([{0}, {1}, {2}], False), ([{0}, {1}, {1}], True), ([{0, 1}, {0, 1}, {2, 3}], False), ([{4}, {4}, {4}], True)],
)
def test_crowded_where_ranks_are_bound(monkeypatch: pytest.MonkeyPatch, bound: list[set[int]], crowded: bool) -> None:
    order = iter(bound)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: next(order))
    found = meshes(together([None] * 3))
    close(found)
    assert [mesh.crowded for mesh in found] == [crowded] * 3


def test_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    records: list[bytes] = []

    class Overheard:
        def __init__(self, exchange: Exchange) -> None:
            self.rank, self.size, self._exchange = exchange.rank, exchange.size, exchange

        def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
            everything = self._exchange(record, deadline, watch)
            if not records:  # of the first round
                records.extend(everything)
            return everything

    found = meshes(meet([Overheard(each) for each in local_exchanges(2)], [None] * 2))
    close(found)
    entropy = [Record.unpack(each).entropy for each in records]
    assert len(set(entropy)) == 2
    told = caplog.text + repr(found)
    assert "rank 1 to rank 0: unix @gloompi-" in told
    for secret in (Session(records)._key, *entropy):
        assert secret.hex() not in told
        assert repr(secret)[2:-1] not in told


# -- a rank that cannot take part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("which", ["first", "last"])
def test_unknown_interface_on_one_rank(size: int, which: str) -> None:
    rank = 0 if which == "first" else size - 1
    devices: list[Device | None] = [None] * size
    devices[rank] = Device("=nosuch0")
    error = one_failure(together(devices))
    assert str(error) == (
        f"rendezvous failed at rank {rank} ({HOST}, pid {PID}): no interface that is up matches interface='=nosuch0'; "
        "there are: lo (127.0.0.1/8)"
    )
    assert (error.rank, error.host, error.pid) == (rank, HOST, PID)


def test_several_failures_are_told_as_the_first() -> None:
    error = one_failure(together([None, Device("=nosuch1"), Device("=nosuch2"), None]))
    assert error.rank == 1
    assert "'=nosuch1'" in error.reason


def test_bad_environment_is_told_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_PORT_RANGE", "many")
    assert str(one_failure(together([Device(port=(30000, 39999)), None]))) == (
        f"rendezvous failed at rank 1 ({HOST}, pid {PID}): GLOOMPI_PORT_RANGE must be low:high, not 'many'"
    )


def test_used_up_port_range_on_one_rank() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = one_failure(together([None, None, Device(port=(port, port))]))
    assert str(error) == (
        f"rendezvous failed at rank 2 ({HOST}, pid {PID}): no free port in {port}-{port} on 127.0.0.1 (lo): [Errno 98] "
        "Address already in use; widen the range"
    )


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (ValueError(), "ValueError"),
        (OSError(), "OSError"),
        (LookupError("x"), "LookupError: x"),
        (ValueError("/data/\udce9"), "/data/\\udce9"),
        (SPEECHLESS["raises"][0], "Speechless (its text cannot be made)"),
        (SPEECHLESS["no str"][0], "Speechless (its text cannot be made)"),
    ],
)
def test_failure_of_one_rank_is_told_whatever_its_text(exc: Exception, reason: str) -> None:
    class Failing(Device):
        def listen(self, backlog: int = 128) -> Any:
            raise exc

    assert (
        str(one_failure(together([None, Failing(), None]))) == f"rendezvous failed at rank 1 ({HOST}, pid {PID}): {reason}"
    )


def test_failure_without_a_text_while_connecting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Connecting.run

    def failing(connecting: Connecting, deadline: Deadline) -> None:
        if connecting._rank == 1:
            raise OSError
        run(connecting, deadline)

    monkeypatch.setattr(Connecting, "run", failing)
    assert one_failure(together([None] * 3)).reason == "OSError"


def test_long_reason_is_cut_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Interface(f"eth{n}", False, ()) for n in range(200)]
    monkeypatch.setattr(interfaces, "interfaces", lambda: [LO, *many])
    error = one_failure(together([None, Device("=nosuch0")]))
    assert "matches interface='=nosuch0'; there are: lo, eth0 (down), eth1 (down)" in error.reason
    assert error.reason.endswith("...")


def test_other_version_of_one_rank() -> None:
    class Newer:
        def __init__(self, exchange: Exchange) -> None:
            self.rank, self.size, self._exchange = exchange.rank, exchange.size, exchange

        def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
            return self._exchange(record[:1] + b"\x07" + record[2:], deadline, watch)

    zero, one = local_exchanges(2)
    error = one_failure(meet([zero, Newer(one)], [None, None]))
    assert str(error) == ("rendezvous failed at rank 1: its record has version 7, this gloompi writes version 6")


def test_no_way_between_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = iter(range(100))
    monkeypatch.setattr(device_module, "host_id", lambda: bytes([next(hosts)]) * 16)
    error = one_failure(together([Device(transport="tcp")] * 2))
    assert re.sub(r":\d+", ":PORT", str(error)) == (
        f"rendezvous failed at rank 0 ({HOST}, pid {PID}): there is no way to rank 1 ({HOST}): this rank listens on "
        "127.0.0.1:PORT, that one on 127.0.0.1:PORT; the ranks need an address family or a host in common"
    )


def test_transports_that_exclude_each_other() -> None:
    error = one_failure(together([Device(transport="tcp"), Device(transport="unix")], timeout=0.5))
    assert re.sub(r":\d+", ":PORT", str(error)) == (
        f"rendezvous failed at rank 0 ({HOST}, pid {PID}): there is no way to rank 1 ({HOST}): this rank listens on "
        "127.0.0.1:PORT, that one on an AF_UNIX socket; the ranks need an address family or a host in common"
    )


def test_two_users_without_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([1000, 1001])
    monkeypatch.setattr(os, "geteuid", lambda: next(numbers))
    monkeypatch.setattr(device_module, "is_own_user_known", lambda: True)
    monkeypatch.setattr(device_module, "is_permitted", lambda: False)
    text = str(one_failure(together([Device(transport="unix")] * 2, timeout=1.0)))
    assert re.sub(r"100[01] and 100[01]", "UID and UID", text) == (
        f"rendezvous failed at rank 0 ({HOST}, pid {PID}): there is no way to rank 1 ({HOST}): this rank listens on an "
        "AF_UNIX socket, that one on an AF_UNIX socket; the ranks need one user: they have UID and UID, between which no "
        'AF_UNIX socket is used; or transport="tcp"'
    )


# -- a rank that is missing ---------------------------------------------------------------------------------------------


def test_rank_that_does_not_come_to_the_exchange() -> None:
    error = one_failure(meet(list(local_exchanges(4)[:2]), [None, None], timeout=0.3))
    assert str(error) == "rendezvous failed: ranks [2, 3] did not come within 0.3 s"


class Leaving:
    """Takes part in some rounds of an exchange, then fails as a program might."""

    def __init__(self, exchange: Exchange, rounds: int, error: BaseException) -> None:
        self.rank, self.size, self._exchange = exchange.rank, exchange.size, exchange
        self._rounds, self._error = rounds, error

    def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
        if not self._rounds:
            raise self._error
        self._rounds -= 1
        return self._exchange(record, deadline, watch)


def test_rank_that_leaves_before_the_exchange() -> None:
    zero, one = local_exchanges(2)
    error = KeyboardInterrupt()
    results = meet([Leaving(zero, 0, error), one], [None, None], timeout=0.3)
    assert results[0] is error
    assert str(results[1]) == "rendezvous failed: ranks [0] did not come within 0.3 s"


def test_rank_that_leaves_while_the_others_agree() -> None:
    """Noticed at once by the end of its connection, not by the deadline."""
    zero, one, two = local_exchanges(3)
    error = KeyboardInterrupt()
    results = meet([zero, Leaving(one, 1, error), two], [None] * 3)
    assert results[1] is error
    text = "it gave up: KeyboardInterrupt (reported by rank 1)"
    assert {str(results[0]), str(results[2])} == {f"rendezvous failed at rank 1 ({HOST}, pid {PID}): {text}"}


def test_rank_that_leaves_while_the_others_connect() -> None:
    zero, one, two = local_exchanges(3)

    class Deaf(Leaving):
        """Has its record sent and hears no answer."""

        def __call__(self, record: bytes, deadline: Deadline, watch: Callable[[], None]) -> list[bytes]:
            self._exchange(record, deadline, watch)
            raise self._error

    error = KeyboardInterrupt()
    began = monotonic()
    results = meet([zero, Deaf(one, 1, error), two], [None] * 3)
    assert monotonic() - began < 2
    assert results[1] is error
    # Rank 2 has dialed it; rank 0 has waited for it, and is told.
    text = f"rendezvous failed at rank 1 ({HOST}, pid {PID}): it stopped listening at UNIX before all ranks were connected"
    told = [re.sub(r"at \S+ before", "at UNIX before", str(result)) for result in (results[0], results[2])]
    assert told == [f"{text}; it has probably died (reported by rank 2)", f"{text}; it has probably died"]


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("who", range(3))
def test_rank_that_is_interrupted_while_it_connects(who: int, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others raise at once, and name it, whether they are connected to it or not."""
    error = KeyboardInterrupt()
    run = Connecting.run

    def interrupted(connecting: Connecting, deadline: Deadline) -> None:
        if connecting._rank == who:
            with pytest.raises(RendezvousError):  # the others wait for one that comes later
                run(connecting, Deadline(0.3))
            raise error
        run(connecting, deadline)

    monkeypatch.setattr(Connecting, "run", interrupted)
    forget = Connecting._dial_due
    # It is connected to higher ranks only, or rank 0 not to rank 1: so the others must tell those that do not know it.
    monkeypatch.setattr(Connecting, "_dial_due", lambda each, now: None if each._rank == max(who, 1) else forget(each, now))
    began = monotonic()
    results = meet(list(local_exchanges(4)), [Device(transport=transport)] * 4)
    assert monotonic() - began < 0.3 + 2
    assert results[who] is error
    for rank, result in enumerate(results):
        if rank != who:
            assert isinstance(result, RendezvousError)
            assert (result.rank, result.reason) == (who, "it gave up: KeyboardInterrupt"), (rank, str(result))


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize("who", range(4))
def test_rank_that_fails_by_itself_while_the_others_connect(
    who: int, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one host the others see at once that it does not listen any more; it lives, and says why."""
    run = Connecting.run

    def failing(connecting: Connecting, deadline: Deadline) -> None:
        if connecting._rank == who:
            raise OSError(24, "Too many open files")
        run(connecting, deadline)

    monkeypatch.setattr(Connecting, "run", failing)
    began = monotonic()
    noticed = transport == "unix" and who < 3  # rank 3 would have dialed, and is not missed before the time is up
    error = one_failure(together([Device(transport=transport)] * 4, timeout=20.0 if noticed else 1.0))
    assert monotonic() - began < 2
    assert str(error) == f"rendezvous failed at rank {who} ({HOST}, pid {PID}): [Errno 24] Too many open files"


# -- few file descriptors -----------------------------------------------------------------------------------------------

SCARCE = """
import os, resource, sys, threading
from gloompi.deadline import Deadline
from gloompi.errors import RendezvousError
from gloompi.rendezvous.local import local_exchanges
from gloompi.rendezvous.mesh import connect
from gloompi.transport.device import Device

size, room = map(int, sys.argv[1:3])

def rank(exchange):
    try:
        mesh = connect(exchange, device, Deadline(float(sys.argv[3])))
    except RendezvousError as exc:
        told[exchange.rank] = str(exc)
    else:
        told[exchange.rank] = "connected"
        kept.append(mesh)

told, kept = [None] * size, []
device = Device(host="127.0.0.1", transport="tcp")
threads = [threading.Thread(target=rank, args=(each,)) for each in local_exchanges(size)]
device.listen(1).close()  # everything is imported
before = os.listdir("/proc/self/fd")
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + room, hard))
for each in threads:
    each.start()
for each in threads:
    each.join()
if not kept:
    assert os.listdir("/proc/self/fd") == before
print(*told, sep="\\n")
os._exit(0)
"""


def scarce(size: int, room: int, timeout: float) -> list[str]:
    """What the ranks, threads of one process, raise when that many more files may be opened."""
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, str(size), str(room), str(timeout)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == size
    return told


def test_few_descriptors_are_noticed_before_a_socket_is_opened() -> None:
    told = scarce(3, 10, 20.0)
    assert len(set(told)) == 1
    pattern = (
        r"rendezvous failed at rank 0 \(.*, pid \d+\): too few file descriptors: \d+ of \d+ are in use and 3 ranks need 19; "
        r"raise the limit \(ulimit -n, at most \d+\)"
    )
    assert re.fullmatch(pattern, told[0])


def test_descriptors_that_run_out_on_the_way() -> None:
    """Each rank finds enough, and together they use them up."""
    told = scarce(8, 40, 1.0)
    assert len(set(told)) == 1
    assert told[0].startswith("rendezvous failed")


def test_enough_descriptors() -> None:
    assert scarce(2, 64, 20.0) == ["connected"] * 2
