#!/bin/sh
# What mpiexec takes for a remote shell: its "host name" is the id of a process, whose network, host name and mounts the
# command gets.  See tests/hosts.py.
host=$1
shift
exec nsenter --target "$host" --net --uts --mount sh -c "exec $*"
