"""Strangers of all kinds at the doors of several ranks: a program, so that the ranks keep their cores' share of Python.

``python flood.py FOLDER COUNT``: every rank has put a file N.json there: family and address of one listening socket, and a
hello that somebody has overheard there.  Makes FOLDER/made when COUNT connections have been made, goes on until there is
FOLDER/over, and prints how many there were of each kind.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path

# Connections that are kept open at a time: with 8 ranks, that many more than one of them keeps strangers.
_OPEN = 800


def greetings(hello: bytes, rank: int) -> dict[str, bytes]:
    """What strangers say at a rank's door, if they say anything."""
    other = (1).to_bytes(4, "little")
    mine = rank.to_bytes(4, "little")
    return {
        "17 HTTP": b"GET / HTTP/1.1\r\nHost: rank\r\n\r\n" + bytes(64),
        "17 TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        "17 garbage": os.urandom(64),
        "18 silent": b"",
        "19 slow": hello[:1],
        "20 HMAC": hello + bytes(32),
        "20 session": hello[:8] + os.urandom(16) + hello[24:],
        "20 version": hello[:7] + b"\x63" + hello[8:],
        "20 rank": hello[:24] + b"\xff\xff\xff\x7f" + hello[28:],
        "20 own rank": hello[:24] + mine + hello[28:],
        "21 duplicate": hello[:24] + other + hello[28:],
        "22 replay": hello,
    }


def main(folder: Path, count: int) -> None:
    doors = []
    for path in sorted(folder.glob("*.json")):
        rank, family, address, hello = json.loads(path.read_text())
        where = tuple(address) if isinstance(address, list) else bytes.fromhex(address)
        doors.append((rank, family, where, bytes.fromhex(hello)))
    made: Counter[str] = Counter()
    kept: deque[socket.socket] = deque()
    slow: deque[socket.socket] = deque(maxlen=50)
    spoke = time.monotonic()
    while not (folder / "over").exists():
        for rank, family, address, hello in doors:
            for kind, greeting in {"16 closes": None, **greetings(hello, rank)}.items():
                sock = socket.socket(family)
                sock.settimeout(0.05)
                try:
                    sock.connect(address)
                except OSError:  # the backlog is full, or the door closed
                    sock.close()
                    continue
                made[kind] += 1
                with suppress(OSError):
                    if greeting:
                        sock.sendall(greeting)
                if greeting is None:
                    sock.close()
                    continue
                kept.append(sock)
                if kind == "19 slow":
                    slow.append(sock)
                if len(kept) > _OPEN:
                    kept.popleft().close()
        if time.monotonic() - spoke > 1:
            spoke = time.monotonic()
            for sock in slow:
                with suppress(OSError):
                    sock.send(b"g")
        if made.total() >= count:
            (folder / "made").touch()
    for sock in kept:
        sock.close()
    print(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
