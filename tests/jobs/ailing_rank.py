"""The doctor examines a job of which some ranks have an ailment, on a host that has nothing else to do.

Arguments: the ailment such as ``files=64``, or ``none``, the ranks that have it such as ``1`` or ``2,3``, the doctor's own
arguments.
"""

import os
import resource
import signal
import sys
import time

from gloompi.doctor import command, facts, measure, slowness
from gloompi.launcher import started_by

# Where in the examination a rank can end.
STAGES = {
    "facts": (command.Facts, "of_this_process"),
    "measure": (measure, "_push"),
    "diagnosis": (command, "diagnose"),
    "report": (command, "_report"),
}


def files(limit):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), hard))


def setting(assignment):
    name, _, value = assignment.partition(":")
    os.environ[name] = value


def clock(seconds):
    true = time.time
    time.time = lambda: true() + float(seconds)


def without(package):
    sys.modules[package] = None  # import raises ModuleNotFoundError


def signalled(number):
    return lambda stage: setattr(*STAGES[stage], lambda *_: os.kill(os.getpid(), number))


def fails(stage):
    def fail(*_):
        raise RuntimeError("this rank fails")

    setattr(*STAGES[stage], fail)


def load(average):
    facts.load_average = lambda: float(average)


def slow(seconds):
    """From how long a round trip within a host is called slow."""
    slowness._HOST_SECONDS = float(seconds)


AILMENTS = {
    "none": lambda _: None,
    "load": load,
    "slow": slow,
    "files": files,
    "setting": setting,
    "clock": clock,
    "without": without,
    "stops": signalled(signal.SIGSTOP),
    "dies": signalled(signal.SIGKILL),
    "fails": fails,
}

# Whatever else the host does on which the tests run.
load(0.0)
slow("inf")
slowness._NETWORK_SECONDS = float("inf")

ailment, ranks, *arguments = sys.argv[1:]
name, _, value = ailment.partition("=")
launcher = started_by()
if str(launcher.rank if launcher else 0) in ranks.split(","):
    AILMENTS[name](value)
# The doctor's patience is for clusters.
command._MESSAGE_SECONDS, command._RESULT_SECONDS, command._LAST_WORDS_SECONDS = 2.0, 3.0, 1.0
sys.exit(command.main(arguments))
