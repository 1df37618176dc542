"""Measuring: every operation beside MPI, torch's gloo and bare sockets, the rendezvous, and what many of something cost.

The command line is all there is: ``mpiexec -n 2 python -m gloompi.bench``.
"""

from .command import main

__all__ = ["main"]
