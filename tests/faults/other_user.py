"""Another user of the host at an AF_UNIX socket, with whatever to say a test gives him.  Needs nothing but Python.

``python other_user.py dial|listen NAME``: NAME is that of an abstract socket.  Says "ready" when he listens, or "connected";
then what comes in goes to the connection and what comes from it goes out.  Says "over" when the other side has ended it, and
ends when there is no more to come in.
"""

import os
import select
import socket
import sys


def main(what, name):
    """Carry bytes between a connection and the standard streams."""
    sock = socket.socket(socket.AF_UNIX)
    if what == "dial":
        sock.connect("\0" + name)
    else:
        listener = sock
        listener.bind("\0" + name)
        listener.listen(64)
        os.write(1, b"ready\n")
        sock, _ = listener.accept()
    os.write(1, b"connected\n")
    while True:
        ready, _, _ = select.select([0, sock], [], [])
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            try:
                sock.sendall(data)
            except OSError:
                break
        if sock in ready:
            try:
                data = sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                break
            os.write(1, data)
    os.write(1, b"over\n")
    while os.read(0, 65536):  # he goes on listening
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
