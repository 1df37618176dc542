"""Reading the memory of a process: this one, another one, one that has ended, and what must not count as read."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gloompi.transport import memory as module
from gloompi.transport.memory import OFFER_NBYTES, Offer, Owner, Reader

pytestmark = pytest.mark.usefixtures("nothing_leaks")

PROOF = bytes(range(32))
PAGE = mmap.PAGESIZE
PR_SET_DUMPABLE = 4
NOBODY = 65534


@pytest.mark.parametrize(
    ("scope", "uid", "permitted"),
    [("0\n", 1000, True), ("1\n", 1000, False), ("2\n", 1000, False), ("1\n", 0, True), (None, 1000, True)],
)
def test_yama_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scope: str | None, uid: int, permitted: bool
) -> None:
    monkeypatch.setattr(module, "_YAMA", tmp_path / "ptrace_scope")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if scope is not None:
        (tmp_path / "ptrace_scope").write_text(scope)
    assert module.is_permitted() is permitted


def pattern(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, "u1")


def offered(owner: Owner, data: Any) -> Offer:
    return Offer.unpack(owner.offer(memoryview(data)))


def read(pid: int, offer: Offer, position: int = 0, nbytes: int | None = None) -> bytes:
    into = bytearray(offer.nbytes - position if nbytes is None else nbytes)
    Reader().read(pid, offer, position, memoryview(into))
    return bytes(into)


def refusal(pid: int, offer: Offer, position: int = 0, nbytes: int | None = None) -> int | None:
    """The error number of a read that must not succeed."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the number is what is compared
        read(pid, offer, position, nbytes)
    return caught.value.errno


def _permitted() -> bool:
    data, owner = np.ones(8, "u1"), Owner()
    try:
        read(os.getpid(), offered(owner, data))
    except OSError as exc:
        return exc.errno not in (errno.ENOSYS, errno.EPERM)
    return True


needs_reading = pytest.mark.skipif(not _permitted(), reason="process_vm_readv is forbidden here")


class Child:
    """A process that has forked from this one, and does as it is told."""

    def __init__(self, prepare: Callable[[], bytes], act: Callable[[], object]) -> None:
        hears, self._tell = os.pipe()
        self._hear, says = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.close(self._tell)
                os.write(says, prepare())
                while os.read(hears, 1):
                    act()
                    os.write(says, b".")
                code = 0
            finally:
                os._exit(code)
        os.close(hears)
        os.close(says)
        self.said = os.read(self._hear, 4096)

    def act(self) -> None:
        os.write(self._tell, b"!")
        assert os.read(self._hear, 1) == b"."

    def end(self) -> None:
        """Have it end; it stays a zombie until `collect`."""
        if self._tell >= 0:
            os.close(self._tell)
            self._tell = -1
            assert os.read(self._hear, 1) == b""
            os.close(self._hear)

    def collect(self) -> None:
        assert os.waitpid(self.pid, 0)[1] == 0


@contextmanager
def child(prepare: Callable[[], bytes], act: Callable[[], object] = lambda: None) -> Iterator[Child]:
    one = Child(prepare, act)
    yield one
    one.end()
    one.collect()


# -- what an offer is ---------------------------------------------------------------------------------------------------


def test_offer_from_and_to_literal_bytes() -> None:
    packed = (
        b"\x07\x00\x00\x00\x01\x00\x00\x00" b"\x10\x00\x00\x00\x00\x7f\x00\x00" b"\x20\x00\x00\x00\x00\x7f\x00\x00"
    ) + PROOF  # fmt: skip
    offer = Offer(2**32 + 7, 0x7F0000000010, 0x7F0000000020, PROOF)
    assert offer.pack() == packed
    assert Offer.unpack(packed) == Offer.unpack(bytearray(packed)) == offer
    assert len(packed) == OFFER_NBYTES == 56


def test_offers_of_one_owner_share_its_proof_and_owners_do_not() -> None:
    data, owner, other = np.zeros(10, "u1"), Owner(), Owner()
    one, two, three = offered(owner, data), offered(owner, data[3:5]), offered(other, data)
    assert (two.nbytes, two.address) == (2, one.address + 3)
    assert (one.proof, one.proof_address) == (two.proof, two.proof_address)
    assert three.proof != one.proof
    assert three.proof_address != one.proof_address
    assert len(one.proof) == 32


# -- this process -------------------------------------------------------------------------------------------------------


@needs_reading
@pytest.mark.parametrize("nbytes", [1, 7, PAGE, PAGE + 1, 1_000_003])
def test_own_memory_at_every_place(nbytes: int) -> None:
    data, owner = pattern(nbytes, nbytes), Owner()
    offer = offered(owner, data)
    for position in {0, 1, nbytes // 2, nbytes - 1} & set(range(nbytes)):
        for count in {1, (nbytes - position) // 2, nbytes - position} - {0}:
            assert read(os.getpid(), offer, position, count) == data[position : position + count].tobytes()


@needs_reading
def test_only_the_window_is_written() -> None:
    data, into, owner = pattern(1000), np.full(3000, 77, "u1"), Owner()
    Reader().read(os.getpid(), offered(owner, data), 100, memoryview(into)[1000:1500])
    assert (into[:1000] == 77).all()
    assert (into[1500:] == 77).all()
    np.testing.assert_array_equal(into[1000:1500], data[100:600])


@needs_reading
def test_one_reader_reads_from_many() -> None:
    reader = Reader()
    for number in range(100):
        data, owner = pattern(50 + number, number), Owner()
        into = bytearray(50 + number)
        offer = offered(owner, data)
        reader.read(os.getpid(), offer, 0, memoryview(into))
        assert into == data.tobytes()
        owner.revoke()
        with pytest.raises(OSError, match="not what was offered"):
            reader.read(os.getpid(), offer, 0, memoryview(into))


@needs_reading
def test_read_only_memory_can_be_offered() -> None:
    owner, array = Owner(), pattern(100)
    array.flags.writeable = False
    assert read(os.getpid(), offered(owner, array)) == array.tobytes()
    text = bytes(range(200))
    assert read(os.getpid(), offered(owner, text), 3) == text[3:]
    with open(__file__, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        whole = pages[:]
        offer = offered(owner, pages)
        assert read(os.getpid(), offer) == whole


@needs_reading
def test_what_has_changed_since_the_offer_is_read_as_it_is() -> None:
    data, owner = pattern(100), Owner()
    offer = offered(owner, data)
    data += 1
    assert read(os.getpid(), offer) == data.tobytes()


# -- what does not count ------------------------------------------------------------------------------------------------


@needs_reading
def test_nothing_counts_after_revoking() -> None:
    data, owner, other = pattern(100), Owner(), Owner()
    offers = [offered(owner, data), offered(owner, data[50:])]
    later = offered(other, data)
    owner.revoke()
    owner.revoke()
    for offer in offers:
        with pytest.raises(OSError, match="not what was offered") as caught:
            read(os.getpid(), offer)
        assert str(caught.value) == f"[Errno {errno.ESTALE}] the memory of that process is not what was offered"
    assert read(os.getpid(), later) == data.tobytes()


@needs_reading
@pytest.mark.parametrize("byte", [0, 15, 31])
def test_every_byte_of_the_proof_counts(byte: int) -> None:
    data, owner = pattern(100), Owner()
    offer = offered(owner, data)
    proof = bytearray(offer.proof)
    proof[byte] ^= 1
    assert refusal(os.getpid(), offer._replace(proof=bytes(proof))) == errno.ESTALE
    assert refusal(os.getpid(), offer._replace(proof_address=offer.proof_address + 1)) == errno.ESTALE
    assert read(os.getpid(), offer) == data.tobytes()


@pytest.fixture
def pages() -> Iterator[tuple[np.ndarray, int]]:
    """Four pages, the last two of which nobody may read, and their address."""
    memory = np.frombuffer(mmap.mmap(-1, 4 * PAGE), "u1")
    memory[:] = pattern(4 * PAGE)
    address = memory.__array_interface__["data"][0]
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(address + 2 * PAGE, 2 * PAGE, 0) == 0
    yield memory, address
    assert protect(address + 2 * PAGE, 2 * PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@needs_reading
def test_memory_that_cannot_be_read(pages: tuple[np.ndarray, int]) -> None:
    memory, _ = pages
    owner = Owner()
    offer = offered(owner, memory[2 * PAGE :])
    assert refusal(os.getpid(), offer) == errno.EFAULT
    assert refusal(os.getpid(), offer, PAGE + 5, 1) == errno.EFAULT
    assert refusal(os.getpid(), offer._replace(address=0)) == errno.EFAULT


@needs_reading
@pytest.mark.parametrize("start", [0, 5, PAGE, 2 * PAGE - 1])
def test_memory_that_can_be_read_in_part(pages: tuple[np.ndarray, int], start: int) -> None:
    memory, _ = pages
    owner, readable = Owner(), 2 * PAGE - start
    whole = offered(owner, memory)
    assert read(os.getpid(), whole, start, readable) == memory[start : start + readable].tobytes()
    with pytest.raises(OSError, match="Bad address") as caught:
        read(os.getpid(), whole, start, readable + 1)
    assert caught.value.errno == errno.EFAULT
    assert refusal(os.getpid(), whole, start) == errno.EFAULT


@needs_reading
def test_memory_that_is_freed_after_it_was_revoked(pages: tuple[np.ndarray, int]) -> None:
    memory, _ = pages
    owner = Owner()
    offer = offered(owner, memory)
    owner.revoke()
    assert refusal(os.getpid(), offer) == errno.ESTALE


@needs_reading
@pytest.mark.parametrize("before", [0, 1, 16, 31])
def test_a_proof_that_cannot_be_read_whole(pages: tuple[np.ndarray, int], before: int) -> None:
    data, owner, (_, address) = pattern(100), Owner(), pages
    offer = offered(owner, data)._replace(proof_address=address + 2 * PAGE - before)
    assert refusal(os.getpid(), offer) == errno.ESTALE


# -- other processes ----------------------------------------------------------------------------------------------------


@needs_reading
def test_the_memory_of_another_process() -> None:
    owner, data = Owner(), np.zeros(1_000_003, "u1")
    mine = offered(owner, data)

    def prepare() -> bytes:
        nonlocal owner
        owner = Owner()  # this process does not know its proof
        data[:] = pattern(len(data), 8)
        return owner.offer(memoryview(data))

    with child(prepare, lambda: owner.revoke()) as other:
        offer = Offer.unpack(other.said)
        assert offer.address == mine.address
        assert read(other.pid, offer) == pattern(len(data), 8).tobytes()
        assert read(other.pid, offer, 999_999) == pattern(len(data), 8)[999_999:].tobytes()
        assert not data.any()
        assert refusal(os.getpid(), offer) in (errno.ESTALE, errno.EFAULT)  # whatever is at that address here
        assert refusal(other.pid, offer._replace(proof=mine.proof)) == errno.ESTALE
        other.act()
        assert refusal(other.pid, offer) == errno.ESTALE
    assert read(os.getpid(), mine) == bytes(len(data))


@needs_reading
def test_the_wrong_process_has_something_else_there() -> None:
    owner, data = Owner(), pattern(1000)
    offer = offered(owner, data)

    def forget() -> bytes:
        owner.revoke()
        return b"ready"

    with child(forget) as other:
        assert refusal(other.pid, offer) == errno.ESTALE
        assert read(os.getpid(), offer) == data.tobytes()


@needs_reading
def test_the_wrong_process_has_nothing_there() -> None:
    with child(lambda: b"ready") as other, mmap.mmap(-1, 64 * PAGE) as area:
        memory = np.frombuffer(area, "u1")
        owner = Owner()
        offer = offered(owner, memory[32 * PAGE : 33 * PAGE])
        beyond = offer._replace(proof_address=offer.address)
        code = refusal(other.pid, beyond)
        assert code in (errno.EFAULT, errno.ESTALE)  # the latter where the child has come to map something there
        del memory


@needs_reading
def test_a_process_that_has_ended() -> None:
    data, owner = pattern(100), Owner()
    other = Child(lambda: owner.offer(memoryview(data)), lambda: None)
    offer = Offer.unpack(other.said)
    assert read(other.pid, offer) == data.tobytes()
    other.end()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie
    with pytest.raises(ProcessLookupError) as caught:
        read(other.pid, offer)
    assert str(caught.value) == f"[Errno {errno.ESRCH}] No such process"
    other.collect()
    assert refusal(other.pid, offer) == errno.ESRCH


@needs_reading
def test_a_process_that_may_not_be_read() -> None:
    """Both are nobody's, and the one that is read has said that nobody may look into it."""

    def unprivileged() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

    data, owner = pattern(100), Owner()

    def closed() -> bytes:
        unprivileged()
        assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
        return owner.offer(memoryview(data))

    with child(closed) as other:
        offer = Offer.unpack(other.said)

        def look() -> bytes:
            unprivileged()
            try:
                return read(other.pid, offer)
            except PermissionError as exc:
                return str(exc).encode()

        with child(look) as reader:
            assert reader.said.decode() == f"[Errno {errno.EPERM}] Operation not permitted"


# -- where there is no such call ----------------------------------------------------------------------------------------


def test_a_c_library_without_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self, name: str | None, use_errno: bool = False) -> None:
            assert name is None

    data, owner = pattern(100), Owner()
    offer = offered(owner, data)
    monkeypatch.setattr(module.ctypes, "CDLL", Library)
    into = bytearray(100)
    reader = Reader()  # making one is no error
    for _ in range(2):
        with pytest.raises(OSError, match="Function not implemented") as caught:
            reader.read(os.getpid(), offer, 0, memoryview(into))
        assert str(caught.value) == f"[Errno {errno.ENOSYS}] Function not implemented"
    assert into == bytes(100)


def test_what_the_call_reports_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that no other test can have the kernel say: a filter's, a full memory's; and too few bytes."""
    data, owner, reader, answers = (
        pattern(100),
        Owner(),
        Reader(),
        [(-1, errno.ENOMEM), (-1, errno.EINVAL), (-1, errno.EPERM)],
    )

    def call(*_: object) -> int:
        came, code = answers.pop(0)
        ctypes.set_errno(code)
        return came

    monkeypatch.setattr(reader, "_call", call)
    for code in (errno.ENOMEM, errno.EINVAL, errno.EPERM):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            reader.read(os.getpid(), offered(owner, data), 0, memoryview(bytearray(100)))
        assert caught.value.errno == code
    for came in (0, 1, 99, 100, 131):
        answers += [(came, 0), (-1, errno.EFAULT)]  # nor can the proof be read by itself
        with pytest.raises(OSError, match="not what was offered"):
            reader.read(os.getpid(), offered(owner, data), 0, memoryview(bytearray(100)))
