"""A network between hosts whose packets pass through this program, which loses, delays and reorders them.

Every host gets an interface, tun0; the packets of a TUN device are whole IP packets, with checksums, so that a program
that passes them on is a link like any other.  What the kernel's netem does, where the kernel has none.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Weather", "weather"]

_SUBNET = "10.99.0"

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

# A packet that is to be overtaken is this much later than the others.
_OVERTAKEN_SECONDS = 0.003


class Weather:
    """The program at work, as the test sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def clear(self) -> dict[str, int]:
        """End the network; return how many packets there were, how many were lost and how many were overtaken."""
        out, err = self._process.communicate(timeout=10)
        assert self._process.returncode == 0, err
        counts: dict[str, int] = json.loads(out)
        return counts


@contextmanager
def weather(hosts: Sequence[Any], *, loss: float = 0.0, delay: float = 0.0, overtaken: float = 0.0) -> Iterator[Weather]:
    """Join hosts by a network with a share of packets lost and overtaken, and a delay in seconds each way."""
    settings = json.dumps({"pids": [host.pid for host in hosts], "loss": loss, "delay": delay, "overtaken": overtaken})
    process = subprocess.Popen(
        [sys.executable, __file__, settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate(timeout=10)[1]
        for index, host in enumerate(hosts):
            host.sh(f"ip address add {_SUBNET}.{index + 1}/24 dev tun0 && ip link set tun0 up")
        yield Weather(process)
    finally:
        process.kill()
        process.communicate(timeout=10)


def _open(pid: int) -> int:
    """A TUN device in the network of a process."""
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.close(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    return device


def _forward(devices: list[int], loss: float, delay: float, overtaken: float) -> dict[str, int]:
    """Pass packets on until the standard input ends."""
    counts = {"packets": 0, "lost": 0, "overtaken": 0}
    waiting: list[tuple[float, int, int, bytes]] = []
    chance = random.Random()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, device, packet = heapq.heappop(waiting)
            with suppress(OSError):  # its queue is full, or it is not up: one more that is lost
                os.write(device, packet)
        pause = waiting[0][0] - now if waiting else None
        ready, _, _ = select.select([0, *devices], [], [], pause)
        if 0 in ready:
            return counts
        now = time.monotonic()
        for device in ready:
            with suppress(BlockingIOError):
                for _ in range(64):
                    packet = os.read(device, 65536)
                    dest = packet[19] - 1  # the last byte of an IPv4 packet's destination
                    if packet[0] >> 4 != 4 or dest not in range(len(devices)):
                        continue  # IPv6 looks for neighbours of its own accord
                    counts["packets"] += 1
                    if chance.random() < loss:
                        counts["lost"] += 1
                        continue
                    late = delay
                    if chance.random() < overtaken:
                        counts["overtaken"] += 1
                        late += _OVERTAKEN_SECONDS
                    heapq.heappush(waiting, (now + late, counts["packets"], devices[dest], packet))


def main() -> None:
    settings = json.loads(sys.argv[1])
    devices = [_open(pid) for pid in settings.pop("pids")]
    print("ready", flush=True)
    print(json.dumps(_forward(devices, **settings)))


if __name__ == "__main__":
    main()
