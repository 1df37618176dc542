"""Another user of the host who has the ranks' key, having read all that they told each other, at their AF_UNIX sockets."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from servers import HOST, free_port

from faults.strangers import Ranks, knock, let_in, talk, warnings
from gloompi import Device
from gloompi.errors import RendezvousError
from gloompi.transport import credentials, device
from gloompi.transport.handshake import dial

pytestmark = pytest.mark.usefixtures("nothing_leaks")

UID = 54321
PROGRAM = Path(__file__).with_name("other_user.py")


@functools.cache
def as_another() -> list[str] | str:
    """The command that runs Python as another user, or why there is none."""
    if os.geteuid() != 0:
        return "only root can become another user"
    if shutil.which("setpriv") is None:
        return "there is no setpriv"
    for python in (sys.executable, "/usr/bin/python3"):
        command = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", python, "-IS"]
        done = subprocess.run([*command, "-c", ""], capture_output=True, timeout=60, check=False, cwd="/")
        if done.returncode == 0:
            return command
    return "no Python that another user may run"


@contextmanager
def another(what: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = as_another()
    if isinstance(command, str):
        pytest.skip(command)
    process = subprocess.Popen(
        [*command, "-c", PROGRAM.read_text(), what, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read(process: subprocess.Popen[bytes], nbytes: int) -> bytes:
    assert process.stdout is not None
    return process.stdout.read(nbytes)


def say(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


@pytest.fixture
def make_ranks() -> Iterator[Callable[..., Ranks]]:
    made: list[Ranks] = []

    def make(size: int) -> Ranks:
        made.append(Ranks(size, "unix"))
        return made[-1]

    yield make
    for ranks in made:
        ranks.close()


def name_of(ranks: Ranks, rank: int) -> str:
    return f"gloompi-{ranks.endpoints[rank].unix.hex()}"


def test_his_key_does_not_open_the_door(make_ranks: Callable[..., Ranks], caplog: pytest.LogCaptureFixture) -> None:
    ranks = make_ranks(2)
    accepting = ranks.begin(0)
    with another("dial", name_of(ranks, 0)) as he:
        assert read(he, 10) == b"connected\n"
        hello, _ = next(dial(ranks.session, 1, 0, ranks.way))  # as rank 1 would say it
        with suppress(BrokenPipeError):
            say(he, hello)
        assert read(he, 5) == b"over\n"
    let_in(ranks, accepting)
    assert warnings(caplog) == [
        f"refused 1 connection(s) of strangers so far; the last: the process at the other end belongs to user {UID}, the "
        f"ranks belong to user 0"
    ]


def test_the_same_by_the_right_user_opens_it(make_ranks: Callable[..., Ranks]) -> None:
    """So the test above is one."""
    ranks = make_ranks(2)
    accepting = ranks.begin(0)
    sock = knock(ranks, 1, 0)
    assert sock is not None
    sock.setblocking(False)
    talk(accepting.result()[1][1], sock)


def test_nobody_talks_to_him_in_the_place_of_a_rank(make_ranks: Callable[..., Ranks]) -> None:
    """He has taken the name of its socket, and would carry what he hears to where the rank is now."""
    ranks = make_ranks(2)
    (way,) = ranks.ways(1)[0]
    ranks.listeners[0].close()
    with another("listen", name_of(ranks, 0)) as he:
        assert read(he, 6) == b"ready\n"
        with pytest.raises(RendezvousError) as caught:
            ranks.connect(1, 0.5)
        assert read(he, 10) == b"connected\n"
        assert read(he, 5) == b"over\n"
    assert (
        f"could not connect to rank 0 (node0, pid 100) at {way.text}: the process at the other end belongs to user {UID}, "
        f"the ranks belong to user 0; "
    ) in str(caught.value)


def test_a_process_whose_user_has_no_number_is_said_to_have_none(
    make_ranks: Callable[..., Ranks], caplog: pytest.LogCaptureFixture
) -> None:
    """As the kernel shows all those that this user namespace does not know."""
    ranks = make_ranks(2)
    accepting = ranks.begin(0)
    command = as_another()
    if isinstance(command, str):
        pytest.skip(command)
    command = [part.replace(str(UID), str(credentials.OVERFLOW_UID)) for part in command]
    code = f"import socket; s = socket.socket(1); s.connect('\\0{name_of(ranks, 0)}'); print(s.recv(1))"
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd="/")
    assert done.stdout == "b''\n"
    let_in(ranks, accepting)
    assert warnings(caplog)[0].endswith(
        "belongs to user 65534 (which stands for all that have no number in this user namespace), the ranks belong to user 0"
    )


# -- ranks in user namespaces -------------------------------------------------------------------------------------------

MEET = """
import json, gloompi
with gloompi.Context.from_env(connect_timeout=30.0) as ctx:
    total = int(ctx.allreduce(10 ** ctx.rank))
    print(json.dumps([ctx.peers[1 - ctx.rank].transport, total]))
"""


def meet(wrappers: list[list[str]]) -> list[object]:
    """What two ranks see of each other, each in the namespace that a command makes for it."""
    url = f"tcp://{HOST}:{free_port()}"
    settings = {"GLOOMPI_STORE": url, "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [
        subprocess.Popen(
            [*wrapper, sys.executable, "-W", "ignore", "-c", MEET],
            env={**os.environ, **settings, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, wrapper in enumerate(wrappers)
    ]
    found = []
    try:
        for process in started:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            found.append(json.loads(out))
    finally:
        for process in started:
            process.kill()
            process.communicate()
    return found


def unshare(*options: str) -> list[str]:
    command = ["unshare", "--user", *options]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    done = subprocess.run([*command, sys.executable, "-c", ""], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"no user namespace: {done.stderr.strip()}")
    return command


def test_one_user_in_two_namespaces_uses_af_unix() -> None:
    if os.geteuid() != 0:
        pytest.skip("the number of this user in a namespace of its own would be another one")
    assert meet([[], unshare("--map-root-user")]) == [["unix", 11]] * 2


@pytest.mark.parametrize("first", [0, 1])
def test_a_user_without_a_number_does_without_af_unix(first: int) -> None:
    wrappers = [[], unshare()]
    assert meet(wrappers[::-1] if first else wrappers) == [["tcp", 11]] * 2


@pytest.mark.parametrize(
    ("uid", "uid_map", "known"),
    [
        (1000, "0 0 4294967295", True),
        (65534, "0 0 4294967295", True),
        (65534, "", False),
        (65534, "0 1000 1", False),
        (65534, "0 0 65535", False),  # it has a number, and so has everybody who has none
        (0, "0 1000 1", True),
        (65534, "0 0 65534\n65534 65534 4294901761", True),
    ],
)
def test_whose_number_says_something(uid: int, uid_map: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: str) -> object:
        from io import StringIO

        return StringIO({"/proc/self/uid_map": uid_map, "/proc/sys/kernel/overflowuid": "65534\n"}[path])

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(credentials, "open", opened, raising=False)
    assert credentials.is_own_user_known() is known


def test_transport_unix_of_a_user_without_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "is_own_user_known", lambda: False)
    with pytest.raises(OSError, match=r"^this process's user has no number of its own in its user namespace"):
        Device(transport="unix").listen(1)
    listeners = Device(transport="auto").listen(1)
    assert listeners.endpoint.unix == b""
    listeners.close()
