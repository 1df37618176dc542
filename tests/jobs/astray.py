"""A rank of a rendezvous that may lead nowhere: ``FOLDER RANK SIZE CONNECT_TIMEOUT [ADVERTISE]``."""

import os
import sys

from aftermath import Remains, outcome_of
from report import report
from traces import listening

from gloompi import Context, Device, FileStore

folder, rank, size, connect_timeout, *advertise = sys.argv[1:]
rank, size = int(rank), int(size)


def connect():
    Context.from_store(store, rank, size, device=device, connect_timeout=float(connect_timeout)).close()


store = FileStore(folder)
Context.from_store(store, 0, 1).close()
device = Device("10.77.0.0/24", advertise=advertise[0], port=20_000 + rank) if advertise else Device("10.77.0.0/24")
report(rank, pid=os.getpid(), ready=True)
sys.stdin.readline()  # all begin at once, however long each took to start
remains = Remains()
outcome = outcome_of(connect)
report(rank, pid=os.getpid(), outcome=outcome, listening=sorted(listening()), remains=remains.new())
