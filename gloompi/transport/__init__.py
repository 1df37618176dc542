"""Bytes between two ranks: where a rank listens, how two of them connect, and the frames they exchange."""
