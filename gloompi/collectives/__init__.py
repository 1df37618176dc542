"""Collective algorithms: generators over a `Call`, one file per operation.

Each file has the algorithms by name, and `pick`, which says what "auto" stands for.  docs/algorithms.md lists steps, bytes
and sources.
"""
