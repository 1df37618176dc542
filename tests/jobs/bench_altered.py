"""The benchmark on ranks of which some are altered.

Arguments: the alteration such as ``without=torch``, the ranks that have it such as ``1`` or ``0,1``, the benchmark's own.
"""

import sys

from gloompi.bench import main, own
from gloompi.launcher import started_by


def without(package):
    sys.modules[package] = None  # import raises ModuleNotFoundError


def wrong(operation):
    """The last element of the operation's result is one too large."""
    true = own.Own.work

    def work(self, case, buffers):
        found = true(self, case, buffers)
        if case.operation != operation:
            return found

        def run():
            found.run()
            buffers.out.reshape(-1)[-1] += 1

        return own.Work(run)

    own.Own.work = work


alteration, ranks, *arguments = sys.argv[1:]
name, _, value = alteration.partition("=")
launcher = started_by()
if str(launcher.rank if launcher else 0) in ranks.split(","):
    {"without": without, "wrong": wrong}[name](value)
main(arguments)
