"""Checks of gloompi.MPI: see `checking.py`."""
