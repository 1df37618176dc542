"""Run a shell command on a pseudo terminal and print what appears there.  Arguments: columns, the command."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

columns, command = int(sys.argv[1]), sys.argv[2]
controller, terminal = pty.openpty()
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
process = subprocess.Popen(command, shell=True, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal)
os.close(terminal)
try:
    while data := os.read(controller, 65536):
        os.write(1, data)
except OSError:  # nobody has the terminal open any more
    pass
sys.exit(process.wait())
