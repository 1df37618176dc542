"""Several hosts on one machine: network namespaces, a switch between them, and MPI jobs that run on them.

A host is a network, UTS and mount namespace: it has interfaces, a host name and name resolution of its own.  A process
that reads its standard input keeps it alive, so that the hosts and all that belongs to them go when the process that
made them ends, even if that is killed.  Nothing has a name or a file outside of them, and the machine's own network is
never touched.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from ipaddress import ip_network
from typing import Any

from launch import JOBS, mpiexec, run_job, vendor

__all__ = ["RANKS_PER_HOST", "Host", "Hosts", "missing", "several_hosts"]

RANKS_PER_HOST = 2

_NAMESPACES = ("--net", "--uts", "--mount")

# Packages of the commands, by their names in Debian.
_COMMANDS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "unshare": "util-linux", "nsenter": "util-linux"}

# What the hosts need of the kernel.
_TRIAL = """
mount -t sysfs sysfs /sys
ip link add br0 type bridge
ip link add port0 type veth peer name eth0
tc qdisc add dev eth0 root tbf rate 100mbit burst 32kb latency 100ms
nft 'table inet trial { chain input { type filter hook input priority 0; ct state established counter accept; }; }'
"""

# MPI keeps to this interface, whatever becomes of the others: UCX's and libfabric's settings.
_MPI_INTERFACE, _MPI_SUBNET = "eth0", "10.77.0.0/24"
_MPI_SETTINGS = ("UCX_TLS=tcp", f"UCX_NET_DEVICES={_MPI_INTERFACE}", f"FI_TCP_IFACE={_MPI_INTERFACE}")

# Names resolve nowhere, and slowly: the only nameserver is the switch, which counts the queries and drops them.
# /sys is mounted again because it shows the interfaces of where it was mounted.  IPv6 addresses are usable at once,
# without a search for duplicates that takes seconds.
_BOOT = """
hostname "$0"
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /mnt
echo 127.0.0.1 localhost > /mnt/hosts
echo nameserver "$1" > /mnt/resolv.conf
echo hosts: files dns > /mnt/nsswitch.conf
for file in hosts resolv.conf nsswitch.conf; do mount --bind /mnt/$file /etc/$file; done
for which in all default; do echo 0 > /proc/sys/net/ipv6/conf/$which/accept_dad; done
ip link set lo up
echo ready
exec cat
"""


@functools.cache
def missing() -> str:
    """What this machine lacks for hosts of its own and how to get it; empty if nothing."""
    if vendor() != "mpich":
        return "needs MPICH's mpiexec, whose -launcher-exec starts ranks on other hosts: pip install mpich"
    if os.geteuid() != 0:
        return "network namespaces need root: run pytest with sudo"
    for command, package in _COMMANDS.items():
        if shutil.which(command) is None:
            return f"no {command}: apt-get install {package}"
    trial = subprocess.run(
        ["unshare", *_NAMESPACES, "sh", "-ec", _TRIAL], capture_output=True, text=True, timeout=20, check=False
    )
    if trial.returncode:
        return f"networks cannot be made here (in a container: docker run --privileged): {trial.stderr.strip()}"
    return ""


class Host:
    """A network, a host name and mounts that some processes share.

    Attributes
    ----------
    name : str
    pid : int
        The process that keeps the host alive.
    """

    def __init__(self, name: str, nameserver: str) -> None:
        self.name = name
        self._keeper = subprocess.Popen(
            ["unshare", *_NAMESPACES, "sh", "-ec", _BOOT, name, nameserver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which then end the hosts themselves
        )
        self.pid = self._keeper.pid
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} did not start: {self._keeper.communicate()[1]}")
        # Open, it stays ours: the number of a namespace that is gone may be another's next.
        self._network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)

    def command(self, *command: str) -> list[str]:
        """The command line that runs `command` on this host."""
        return ["nsenter", f"--target={self.pid}", *_NAMESPACES, *command]

    def sh(self, script: str) -> str:
        """Run a shell script on this host; return what it prints."""
        command = self.command("sh", "-ec", script)
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, f"on {self.name}: {script}\n{done.stderr}"
        return done.stdout

    def join(self) -> None:
        """Have this process use the host's network from now on."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._network, 0):
            raise OSError(ctypes.get_errno(), f"setns to the network of {self.name}")

    def processes(self) -> list[int]:
        """The ids of all processes on this host."""
        found, network = [], os.fstat(self._network)
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):  # it has ended
                if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), network):
                    found.append(int(pid))
        return found

    def close(self) -> None:
        """Kill every process on this host; with the last one its interfaces go.  To be called once."""
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.close(self._network)
        self._keeper.communicate()


class Hosts:
    """Hosts that a switch joins; all of them have `eth0`, which is MPI's too.

    Attributes
    ----------
    nodes : list of Host
    switch : Host
        Has the other end of every link, and mpiexec.
    eth0 : list of str
        The nodes' addresses on that network.
    """

    def __init__(self, switch: Host, nodes: list[Host]) -> None:
        self.switch, self.nodes = switch, nodes
        self._bridges = 0
        # mpiexec looks its own host's name up: on lo, where nobody answers either, it is told so at once.
        switch.sh("""nft 'table inet names { chain input { type filter hook input priority 0;
            iifname != lo meta l4proto { tcp, udp } th dport 53 counter drop; }; }'
            echo 1 > /proc/sys/net/ipv4/ip_forward""")
        self.eth0 = self.network(_MPI_INTERFACE, _MPI_SUBNET)

    def everywhere(self, script: str) -> None:
        """Run a shell script on all nodes."""
        for node in self.nodes:
            node.sh(script)

    def network(self, interface: str, subnet: str, *, only: Iterable[int] | None = None, routed: str = "") -> list[str]:
        """Join nodes by a network; return the addresses, of which every node gets one: node 0 the first.

        Parameters
        ----------
        interface : str
            What the nodes call it.
        subnet : str
            IPv4 or IPv6, in CIDR notation.
        only : iterable of int, optional
            The nodes that are on this network.  Default: all.
        routed : str, optional
            A larger network around this one, which the nodes reach through the switch.
        """
        prefix, gateway = ip_network(subnet).prefixlen, _switch_address(subnet)
        addresses = [str(ip_network(subnet)[index + 1]) for index in range(len(self.nodes))]
        bridge, self._bridges = f"br{self._bridges}", self._bridges + 1
        self.switch.sh(f"""ip link add {bridge} type bridge
            ip address add {gateway}/{prefix} dev {bridge}
            ip link set {bridge} up""")
        for index in range(len(self.nodes)) if only is None else only:
            node = self.nodes[index]
            self.switch.sh(f"""ip link add {bridge}-{index} type veth peer name {interface} netns {node.pid}
                ip link set {bridge}-{index} master {bridge} up""")
            node.sh(f"""ip address add {addresses[index]}/{prefix} dev {interface}
                ip link set {interface} up""")
            if routed:
                node.sh(f"ip route add {routed} via {gateway}")
        return addresses

    def docker(self) -> None:
        """A bridge as Docker makes it, with the same address on every node, and a container on it."""
        for index, node in enumerate(self.nodes):
            node.sh(f"""ip link add docker0 type bridge
                ip address add 172.17.0.1/16 dev docker0
                ip link add veth0 type veth peer name container{index} netns {self.switch.pid}
                ip link set veth0 master docker0 up
                ip link set docker0 up""")
            self.switch.sh(f"ip link set container{index} up")  # without it, the bridge has no carrier

    def nat(self, inside: str, outside: list[str], ports: tuple[int, int]) -> None:
        """Give every node the address `inside`, which others reach only as one of `outside` and at these ports."""
        low, high = ports
        for node, address in zip(self.nodes, outside, strict=True):
            node.sh(f"""ip link add inside type veth peer name inside0
                ip address add {inside}/24 dev inside
                ip link set inside0 up
                ip link set inside up
                nft 'table ip nat {{ chain prerouting {{ type nat hook prerouting priority -100;
                    ip daddr {address} tcp dport {low}-{high} dnat to {inside}; }}; }}'""")

    def firewall(self, interface: str, *, ports: tuple[int, int], verdict: str = "drop") -> None:
        """Let only TCP connections to a range of ports in; `verdict` ("drop", "reject") is for all others."""
        low, high = ports
        self.everywhere(f"""nft 'table inet firewall {{ chain input {{ type filter hook input priority 0;
            iifname != "{interface}" accept; ct state established,related accept;
            tcp dport {low}-{high} accept; {verdict}; }}; }}'""")

    def mtu(self, interface: str, nbytes: int) -> None:
        """Set the size of the largest packet."""
        self.everywhere(f"ip link set {interface} mtu {nbytes}")

    def rate(self, interface: str, rate: str) -> None:
        """Limit what every node sends, ``"100mbit"`` a second say."""
        self.everywhere(f"tc qdisc add dev {interface} root tbf rate {rate} burst 32kb latency 100ms")

    def names_asked(self) -> int:
        """How many packets came for the nameserver."""
        return int(self.switch.sh("nft list table inet names").partition("packets ")[2].split()[0])

    def launcher(self) -> list[str]:
        """mpiexec on the switch, which starts ranks on the nodes: for `launch.Job`."""
        path = mpiexec()
        assert path is not None
        return self.switch.command(
            *("env", *_MPI_SETTINGS, path, "-launcher", "rsh", "-launcher-exec", str(JOBS / "enter_host.sh")),
            *("-localhost", _switch_address(_MPI_SUBNET), "-ppn", str(RANKS_PER_HOST)),
            *("-hosts", ",".join(str(node.pid) for node in self.nodes)),
        )

    def run(self, program: str, *args: object, **options: Any) -> list[dict[str, Any]]:
        """Run a program of tests/jobs, `RANKS_PER_HOST` ranks a node; `options` and result are `launch.run_job`'s."""
        return run_job(RANKS_PER_HOST * len(self.nodes), program, *args, launcher=self.launcher(), **options)


@contextmanager
def several_hosts(count: int = 3) -> Iterator[Hosts]:
    """`count` hosts, ``node0.invalid`` and so on, until the end of the with block."""
    names = ["switch.invalid", *(f"node{index}.invalid" for index in range(count))]
    with ExitStack() as stack:
        switch, *nodes = [stack.enter_context(closing(Host(name, _switch_address(_MPI_SUBNET)))) for name in names]
        yield Hosts(switch, nodes)


def _switch_address(subnet: str) -> str:
    return str(ip_network(subnet)[254])
