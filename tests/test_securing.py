"""The TLS handshakes of a rendezvous, with and without strangers on the wire, and Contexts over what comes of them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
from encrypted import Alter, proxy
from launch import run_job
from traffic import KINDS, begin

from gloompi import Context, Device, FileStore, PeerLostError, RendezvousError
from gloompi.deadline import Deadline
from gloompi.rendezvous import mesh as mesh_module
from gloompi.rendezvous.local import local_exchanges
from gloompi.testing import RankError, run_ranks
from gloompi.transport import interfaces
from gloompi.transport.certificate import Certificate, make_certificate
from gloompi.transport.device import Listeners
from gloompi.transport.endpoint import Endpoint
from gloompi.transport.handshake import ANSWER_NBYTES, HELLO_NBYTES, PROOF_NBYTES
from gloompi.transport.interfaces import Interface
from gloompi.transport.route import Route, routes
from gloompi.transport.tls import TlsPair

pytestmark = pytest.mark.usefixtures("nothing_leaks")

HOST, PID = socket.gethostname(), os.getpid()
HERE = f"({HOST}, pid {PID})"
TLS = Device(host="127.0.0.1", transport="tcp", tls=True)
PLAIN = Device(host="127.0.0.1", transport="tcp")
LARGE = 20 * 1024 * 1024 // 8


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "interfaces", lambda: [Interface("lo", True, (ip_interface("127.0.0.1/8"),))])


def meet(devices: list[Device], run: Callable[[Context], object], timeout: float = 20.0) -> list[object]:
    """A Context in a thread per device; what each rank's function returned, or what it raised."""

    def rank(exchange: Any, device: Device) -> object:
        try:
            with Context._from_exchange(exchange, device, timeout, Deadline(timeout)) as ctx:
                return run(ctx)
        except BaseException as exc:
            return exc

    with ThreadPoolExecutor(len(devices)) as pool:
        return list(pool.map(rank, local_exchanges(len(devices)), devices))


def total(ctx: Context) -> float:
    return float(ctx.allreduce(np.float64(10.0**ctx.rank)))


def one_failure(results: list[object]) -> str:
    """The text of the error that all ranks have raised."""
    assert all(type(result) is RendezvousError for result in results), results
    texts = {str(result) for result in results}
    assert len(texts) == 1, texts
    return texts.pop()


@contextmanager
def between(monkeypatch: pytest.MonkeyPatch, alter: Alter) -> Iterator[None]:
    """With somebody on the wire between rank 0, who listens, and rank 1, who dials."""
    there: list[Any] = []

    def detour(mine: Endpoint, theirs: Endpoint) -> list[Route]:
        found = routes(mine, theirs)
        if threading.current_thread() in dialers:
            there[:] = [found[0].address]
            return [found[0]._replace(address=address)]
        return found

    dialers: set[threading.Thread] = set()
    prepare = mesh_module.prepare

    def noted(device: Device | None, *arguments: Any) -> Any:
        if isinstance(device, Dialer):
            dialers.add(threading.current_thread())
        return prepare(device, *arguments)

    with proxy(lambda: there[0], alter) as address:
        monkeypatch.setattr(mesh_module, "routes", detour)
        monkeypatch.setattr(mesh_module, "prepare", noted)
        yield


class Dialer(Device):
    """The device of the rank whose connections take the detour."""


DIALER = Dialer(host="127.0.0.1", transport="tcp", tls=True)


class Altered(Device):
    """A device whose listeners are not what they should be."""

    def __init__(self, alter: Callable[[Listeners], Listeners]) -> None:
        super().__init__(host="127.0.0.1", transport="tcp", tls=True)
        self._alter = alter

    def listen(self, backlog: int) -> Listeners:
        return self._alter(super().listen(backlog))


# -- Contexts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_pairs_are_encrypted(size: int) -> None:
    def run(ctx: Context) -> list[str]:
        links = [type(link) for link in ctx._engine._links]
        assert [link is TlsPair for link in links] == [rank != ctx.rank for rank in range(size)]
        assert total(ctx) == float("1" * size)
        return [peer.transport for peer in ctx.peers]

    found = meet([TLS] * size, run)
    assert found == [["self" if peer == rank else "tls" for peer in range(size)] for rank in range(size)]


def test_pairs_of_one_host_stay_in_the_kernel() -> None:
    found = meet([Device(tls=True)] * 2, lambda ctx: (total(ctx), [peer.transport for peer in ctx.peers]))
    assert found == [(11.0, ["self", "unix"]), (11.0, ["unix", "self"])]


def test_the_variable_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOOMPI_TLS", "1")
    assert Device().tls
    assert not Device(tls=False).tls
    assert repr(Device(transport="tcp")).endswith("transport='tcp', tls=True)")
    found = meet([Device(transport="tcp")] * 2, lambda ctx: ctx.peers[1 - ctx.rank].link.split()[0])
    assert found == ["tls"] * 2
    monkeypatch.setenv("GLOOMPI_TLS", "0")
    assert not Device().tls
    monkeypatch.setenv("GLOOMPI_TLS", "yes")
    with pytest.raises(ValueError, match=r"^GLOOMPI_TLS must be 0 or 1, not 'yes'$"):
        Device()


@pytest.mark.parametrize("count", [0, 1, 7, 1000, 40_000])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_operation(size: int, count: int) -> None:
    def run(ctx: Context) -> None:
        for salt in range(2):
            started = begin(ctx, salt, count)
            assert len(started) == KINDS
            for request, check in started:
                check(request.wait())

    run_ranks(size, run, device=TLS)


@pytest.mark.parametrize("count", [1, 100, LARGE], ids=["8 B", "800 B", "20 MiB"])
@pytest.mark.parametrize("size", [2, 3])
def test_blocking_collectives(size: int, count: int) -> None:
    def run(ctx: Context) -> None:
        n, me = ctx.size, ctx.rank
        base = np.arange(count, dtype="f8")
        for root in range(n):
            np.testing.assert_array_equal(ctx.broadcast(base + me, root=root), base + root)
            reduced = ctx.reduce(base + me, root=root)
            assert (reduced is None) == (me != root)
            if reduced is not None:
                np.testing.assert_array_equal(reduced, n * base + n * (n - 1) / 2)
        for algorithm in ("auto", "ring"):
            summed = ctx.allreduce(base * (me + 1), algorithm=algorithm)
            np.testing.assert_array_equal(summed, base * n * (n + 1) / 2)
        small = np.arange(-(-count // n), dtype="f8")
        np.testing.assert_array_equal(ctx.allgather(small + me), [small + rank for rank in range(n)])
        rows = np.array([small + 10 * me + rank for rank in range(n)])
        np.testing.assert_array_equal(ctx.alltoall(rows), [small + 10 * rank + me for rank in range(n)])
        np.testing.assert_array_equal(ctx.reduce_scatter(rows).ravel(), n * small + 10 * n * (n - 1) / 2 + n * me)
        np.testing.assert_array_equal(ctx.scan(small + me), (me + 1) * small + me * (me + 1) / 2)
        ctx.barrier()

    run_ranks(size, run, device=TLS)


def test_large_messages_against_each_other() -> None:
    def run(ctx: Context) -> None:
        other, out = 1 - ctx.rank, np.empty(LARGE)
        ctx.sendrecv(np.arange(LARGE) + ctx.rank, other, out.view("i8"), other)
        np.testing.assert_array_equal(out.view("i8"), np.arange(LARGE) + other)

    run_ranks(2, run, device=TLS)


def test_ten_thousand_small_messages_keep_their_order() -> None:
    def run(ctx: Context) -> None:
        if ctx.rank == 0:
            for number in range(10_000):
                ctx.send(np.array([number]), 1)
        else:
            out = np.empty(1, "i8")
            for number in range(10_000):
                ctx.recv(out, 0)
                assert out[0] == number

    run_ranks(2, run, device=TLS)


def test_an_error_of_one_rank_is_told() -> None:
    def run(ctx: Context) -> None:
        if ctx.rank == 1:
            raise ValueError("boom")
        ctx.barrier()

    results = meet([TLS] * 3, run)
    assert isinstance(results[1], ValueError)
    for rank in (0, 2):
        assert isinstance(results[rank], PeerLostError)
        assert ": it aborted: ValueError: boom" in str(results[rank])
        assert "(" + HOST + f", pid {PID}, tls 127.0.0.1:" in str(results[rank])


def test_over_a_store_with_a_secret(tmp_path: Path) -> None:
    def rank(number: int) -> object:
        with FileStore(tmp_path / "store") as store:
            with Context.from_store(store, number, 3, secret="s" * 32, device=TLS, connect_timeout=20.0) as ctx:
                return total(ctx), {peer.transport for peer in ctx.peers}

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(rank, range(3))) == [(111.0, {"self", "tls"})] * 3


@pytest.mark.usefixtures("mpi_jobs")
def test_over_mpi() -> None:
    found = run_job(3, "encrypted.py", env={"GLOOMPI_TLS": "1", "GLOOMPI_TRANSPORT": "tcp"})
    for rank, each in enumerate(found):
        assert each["totals"] == [6.0 * count * (count - 1) / 2 for count in (1, 1000, 300_000)]
        assert each["objects"] == [{"rank": peer} for peer in range(3)]
        assert each["transports"] == ["self" if peer == rank else "tls" for peer in range(3)]
        assert (each["memory_files"], each["left"]) == (0, 0)


def test_no_tls_imports_no_ssl() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from gloompi.testing import run_ranks; run_ranks(2, lambda ctx: ctx.barrier()); "
        "print([name for name in ('ssl', 'cryptography', 'gloompi.transport.tls') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# -- ranks that do not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("does", [(0,), (1,), (0, 2), (1, 2)])
def test_tls_on_some_ranks_only(does: tuple[int, ...]) -> None:
    text = one_failure(meet([TLS if rank in does else PLAIN for rank in range(3)], total))
    without = next(rank for rank in range(3) if rank not in does)
    assert text == (
        f"rendezvous failed at rank {without} {HERE}: it does not encrypt and rank {does[0]} {HERE} "
        f"does; give all ranks Device(tls=True) (GLOOMPI_TLS=1), or none"
    )


def test_missing_package_on_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(listeners: Listeners) -> Listeners:
        listeners.close()
        raise ImportError("Device(tls=True) (GLOOMPI_TLS=1) needs the package cryptography: pip install 'gloompi[tls]'")

    assert one_failure(meet([TLS, Altered(missing), TLS], total)) == (
        f"rendezvous failed at rank 1 {HERE}: Device(tls=True) (GLOOMPI_TLS=1) needs the package cryptography: "
        f"pip install 'gloompi[tls]'"
    )


def another(listeners: Listeners) -> Listeners:
    """With a certificate that its record does not describe."""
    assert listeners.certificate is not None
    listeners.certificate.close()
    return listeners._replace(certificate=make_certificate())


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("which", ["first", "last"])
def test_a_certificate_that_the_record_does_not_describe(size: int, which: str) -> None:
    wrong = 0 if which == "first" else size - 1
    by = 1 if wrong == 0 else 0
    devices: list[Device] = [TLS] * size
    devices[wrong] = Altered(another)
    began = monotonic()
    text = one_failure(meet(devices, total))
    assert monotonic() - began < 5  # nobody waits for a connection that another has given up
    assert text == (
        f"rendezvous failed at rank {by} {HERE}: the certificate that rank {wrong} {HERE} has shown "
        f"is not the one that its record describes: somebody between the two ranks poses as it"
    )


def test_the_certificate_of_another_rank() -> None:
    """It has shown it, but it is rank 0's alone."""
    shown: list[bytes] = []
    written = threading.Event()

    def keep(listeners: Listeners) -> Listeners:
        assert listeners.certificate is not None
        shown.append(listeners.certificate.der)
        written.set()
        return listeners

    def take(listeners: Listeners) -> Listeners:
        assert listeners.certificate is not None
        assert written.wait(10)
        listeners.certificate.der = shown[0]
        return listeners

    text = one_failure(meet([Altered(keep), TLS, Altered(take)], total))
    assert text == (
        f"rendezvous failed at rank 0 {HERE}: the certificate that rank 2 {HERE} has shown "
        f"is not the one that its record describes: somebody between the two ranks poses as it"
    )


@pytest.mark.parametrize("thief", [0, 1])
def test_a_certificate_without_its_key(thief: int) -> None:
    """Who shows the right certificate has to prove that it is its own."""

    class Stolen(Certificate):
        __slots__ = ("_key",)

        def __init__(self, der: bytes, key: Certificate) -> None:
            super().__init__(der, b"")
            self._key = key

        @property
        def path(self) -> str:
            return self._key.path

        def close(self) -> None:
            super().close()
            self._key.close()

    def steal(listeners: Listeners) -> Listeners:
        assert listeners.certificate is not None
        der = listeners.certificate.der
        listeners.certificate.close()
        return listeners._replace(certificate=Stolen(der, make_certificate()))

    devices: list[Device] = [TLS, TLS]
    devices[thief] = Altered(steal)
    text = one_failure(meet(devices, total))
    assert text.startswith(f"rendezvous failed at rank {1 - thief} {HERE}: no TLS handshake with rank {thief} {HERE}: ")


def silent(listeners: Listeners) -> Listeners:
    """Of a rank that has a certificate in its record and does not encrypt."""
    assert listeners.certificate is not None
    listeners.certificate.close()
    return listeners._replace(certificate=None)


def test_a_rank_that_does_not_answer() -> None:
    results = meet([TLS, Altered(silent), TLS], total, timeout=1.0)
    texts = {str(result) for result in results}
    assert all(isinstance(result, RendezvousError) for result in results), results
    assert any(f"rank 1 {HERE} did not answer in the TLS handshake; slow, stopped or dead" in t for t in texts)


# -- somebody on the wire -----------------------------------------------------------------------------------------------

# What goes before the certificates.
GREETING = {True: HELLO_NBYTES + PROOF_NBYTES, False: ANSWER_NBYTES + PROOF_NBYTES}


def test_who_listens_on_the_wire_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = b"what only the ranks may know, "
    heard = {True: b"", False: b""}

    def listen(forth: bool, before: int, data: bytes) -> bytes:
        heard[forth] += data
        return data

    def run(ctx: Context) -> str:
        assert ctx.allgather_object(words * 1000) == [words * 1000] * 2
        ctx.send(np.frombuffer(words, "u1"), 1 - ctx.rank)
        out = np.empty(len(words), "u1")
        ctx.recv(out, 1 - ctx.rank)
        ctx.sendrecv(np.frombuffer(words * 50_000, "u1"), 1 - ctx.rank, np.empty(len(words) * 50_000, "u1"), 1 - ctx.rank)
        return out.tobytes().decode()

    with between(monkeypatch, listen):
        assert meet([TLS, DIALER], run) == [words.decode()] * 2
    for data in heard.values():
        assert len(data) > 50_000 * len(words)
        assert words[:10] not in data


def test_the_same_in_the_plain_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the test above is one."""
    heard = b""

    def listen(forth: bool, before: int, data: bytes) -> bytes:
        nonlocal heard
        heard += data
        return data

    words = b"what only the ranks may know, "
    with between(monkeypatch, listen):
        devices = [PLAIN, Dialer(host="127.0.0.1", transport="tcp")]
        meet(devices, lambda ctx: ctx.allgather_object(words))
    assert words in heard


def change(forth: bool, position: Callable[[bytes], int], new: bytes = b"") -> Alter:
    """Replace bytes at a place that what has gone before tells, or change one; wherever the pieces of the stream end."""
    passed = b""

    def alter(way: bool, before: int, data: bytes) -> bytes:
        nonlocal passed
        if way != forth:
            return data
        passed += data
        start = position(passed)
        altered = bytearray(passed)
        for place in range(start, min(start + len(new or b"?"), len(passed))):
            altered[place] = new[place - start] if new else altered[place] ^ 1
        return bytes(altered[before:])

    return alter


def behind_the_certificate(passed: bytes, greeting: int) -> int:
    length = passed[greeting : greeting + 4]
    return greeting + 4 + int.from_bytes(length, "little") if len(length) == 4 else 1 << 30


@pytest.mark.parametrize("forth", [True, False], ids=["to the listener", "to the dialer"])
@pytest.mark.parametrize("offset", [4, 100], ids=["first byte", "later byte"])
def test_a_certificate_that_is_changed_on_its_way(monkeypatch: pytest.MonkeyPatch, forth: bool, offset: int) -> None:
    with between(monkeypatch, change(forth, lambda passed: GREETING[forth] + offset)):
        text = one_failure(meet([TLS, DIALER], total))
    by = 0 if forth else 1
    assert text == (
        f"rendezvous failed at rank {by} {HERE}: the certificate that rank {1 - by} {HERE} has shown is not the one that "
        f"its record describes: somebody between the two ranks poses as it"
    )


def test_what_is_no_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    with between(monkeypatch, change(False, lambda passed: GREETING[False], b"HTTP/1.1")):
        text = one_failure(meet([TLS, DIALER], total))
    assert text == (
        f"rendezvous failed at rank 1 {HERE}: rank 0 {HERE} sent no certificate but b'HTTP/1.1': something between the two "
        f"ranks alters what they send, or they run different versions"
    )


@pytest.mark.parametrize("forth", [True, False], ids=["to the listener", "to the dialer"])
def test_a_handshake_that_is_changed(monkeypatch: pytest.MonkeyPatch, forth: bool) -> None:
    """In the random bytes of the first flight: the keys of the two ranks differ, and the client is the first to see it."""
    with between(monkeypatch, change(forth, lambda passed: behind_the_certificate(passed, GREETING[forth]) + 20)):
        text = one_failure(meet([TLS, DIALER], total))
    assert text == (
        f"rendezvous failed at rank 1 {HERE}: no TLS handshake with rank 0 {HERE}: DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    )


@pytest.mark.parametrize("victim", [True, False], ids=["to the listener", "to the dialer"])
def test_a_changed_byte_in_a_large_message(monkeypatch: pytest.MonkeyPatch, victim: bool) -> None:
    armed = threading.Event()

    def alter(way: bool, before: int, data: bytes) -> bytes:
        if way == victim and armed.is_set() and len(data) > 1000:
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    def run(ctx: Context) -> None:
        assert total(ctx) == 11.0
        armed.set()
        ctx.allreduce(np.ones(1_000_000))

    with between(monkeypatch, alter):
        results = meet([TLS, DIALER], run)
    assert all(isinstance(result, PeerLostError) for result in results), results
    met, told = results if victim else results[::-1]
    assert str(met).endswith("; something between the two ranks alters what they send")
    assert " in allreduce #2: a record came that was changed or forged (DECRYPTION_FAILED_OR_BAD_RECORD_MAC), " in str(met)
    assert " in allreduce #2: " in str(told)


def test_a_connection_that_ends_in_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(way: bool, before: int, data: bytes) -> bytes:
        if before >= GREETING[way]:
            raise OSError("cut")
        return data

    with between(monkeypatch, cut):
        results = meet([TLS, DIALER], total, timeout=2.0)
    assert all(isinstance(result, RendezvousError) for result in results), results


def test_run_ranks_names_the_rank_that_failed() -> None:
    def run(ctx: Context) -> None:
        if ctx.rank == 2:
            raise KeyError("boom")
        ctx.barrier()

    with pytest.raises(RankError, match=r"^rank 2 of 3 failed: KeyError: 'boom'$"):
        run_ranks(3, run, device=TLS)
