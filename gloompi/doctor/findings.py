"""What is wrong, in an examination: each finding with its numbers and the next step."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_interface

from ..reports import counted
from ..settings import INTERFACES
from ..transport.endpoint import Nearness
from ..transport.interfaces import Interface
from .examination import Examination
from .facts import Port
from .slowness import slow_hosts_and_pairs

__all__ = ["Finding", "Severity", "diagnose", "wrong"]

# Sockets beyond one per peer that a rank needs for a moment: listening, epoll, strangers.
_SPARE_FILES = 16
# Fewer open files than this are too few for the jobs that people run on clusters; 1024 is what most systems give.
_FEW_FILES, _GOOD_FILES = 1024, 4096
# Log files of ranks whose clocks are further apart cannot be read side by side.
_CLOCK_SECONDS = 1.0


class Severity(IntEnum):
    """How bad a finding is; notes are no reason for exit code 1."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """Something that the user should know.

    Attributes
    ----------
    severity : Severity
    text : str
        What is wrong, with whom, in numbers.
    advice : str
        The next step; may be empty.
    """

    severity: Severity
    text: str
    advice: str = ""


def wrong(findings: Iterable[Finding]) -> bool:
    """Whether there is more than notes among them."""
    return any(finding.severity > Severity.NOTE for finding in findings)


def diagnose(examination: Examination) -> list[Finding]:
    """All findings, the worst first."""
    findings = [finding for look in _LOOKS for finding in look(examination)]
    return sorted(findings, key=lambda finding: -finding.severity)


def _listening(exam: Examination) -> Iterator[Finding]:
    groups: dict[tuple[int, str], list[int]] = {}
    for rank, failure in enumerate(exam.failures):
        if failure:
            groups.setdefault((exam.host(rank), failure), []).append(rank)
    for (_, failure), (rank, *others) in groups.items():
        also = f" (nor can rank {', '.join(map(str, others))})" if others else ""
        advice = _listening_advice(exam, rank, failure)
        yield Finding(Severity.ERROR, f"{exam.who(rank)} cannot listen{also}: {failure}", advice)


def _listening_advice(exam: Examination, rank: int, failure: str) -> str:
    if "file descriptors" in failure:
        return _files_advice(exam, rank)
    if "no free port" in failure:
        return "widen GLOOMPI_PORT_RANGE to at least twice the ranks of a host"
    if "needs the package" in failure:
        return f"install it on {exam.hosts[exam.host(rank)]}, or set GLOOMPI_TLS=0 on all ranks"
    if not any(each in failure for each in ("no interface", *INTERFACES)):
        return ""  # the text says what has to be different
    common = sorted(set.intersection(*(_usable(exam, host) for host in range(len(exam.hosts)))))
    return (
        f"set GLOOMPI_SOCKET_IFNAME to interfaces that every host has ({', '.join(common) or 'there are none'}), or to a "
        f"network such as 10.0.0.0/8"
    )


def _usable(exam: Examination, host: int) -> set[str]:
    """Interfaces of a host that lead to other hosts."""
    return {port.name for port in exam.facts[exam.ranks(host)[0]].interfaces if port.up and _leads_on(port)}


def _leads_on(port: Port) -> bool:
    """Whether an interface has an address that other hosts may reach; every interface that is up has a link-local one."""
    interface = Interface(port.name, port.up, ())
    return any(interface.nearness(ip_interface(address)) < Nearness.VIRTUAL for address in port.addresses)


def _connections(exam: Examination) -> Iterator[Finding]:
    """Pairs that are not connected, those with the same reason together."""
    groups: dict[tuple[str, str, int, int], list[tuple[int, int]]] = {}
    for one, other in exam.pairs():
        if exam.connected(one, other) or exam.failures[one] or exam.failures[other]:
            continue
        reason, advice = _reason(exam, one, other)
        here, there = sorted((exam.host(one), exam.host(other)))
        groups.setdefault((reason, advice, here, there), []).append((one, other))
    for (reason, advice, here, there), pairs in groups.items():
        one, other = pairs[0]
        tried = exam.outcomes[other][one].address
        where = f" at {tried}" if tried else ""
        hosts = f"{exam.hosts[here]} and {exam.hosts[there]}" if here != there else exam.hosts[here]
        also = f"; so with {len(pairs)} pairs of {hosts}: {_shown(pairs)}" if len(pairs) > 1 else ""
        text = f"{exam.who(other)} could not connect to {exam.who(one)}{where}: {reason}{also}"
        yield Finding(Severity.ERROR, text, advice)


def _reason(exam: Examination, one: int, other: int) -> tuple[str, str]:
    """Why a pair is not connected and what to try: the higher rank dials, so it knows why it is not even connected."""
    outcome = exam.outcomes[other][one]
    most = max(outcome, exam.outcomes[one][other], key=lambda each: each.blame)
    if most.blame >= 0:  # it was connected, but not encrypted; either may be the one that knows why
        return (
            most.failure,
            "what was sent in the plain came through: look for a proxy or a filter between the two, or do without "
            "(GLOOMPI_TLS=0 on all ranks)",
        )
    if outcome.transport:
        return "it was connected on one side only", "try again; if it stays so, run with GLOOMPI_LOG_LEVEL=debug"
    if not outcome.dialed:
        return outcome.failure, "give both an interface of one network (GLOOMPI_SOCKET_IFNAME), or the same address family"
    if outcome.error == errno.ECONNREFUSED:
        return (
            f"refused ({outcome.failure})",
            "a firewall rejects the port: open a range and set GLOOMPI_PORT_RANGE=low:high, or take another interface "
            "(GLOOMPI_SOCKET_IFNAME)",
        )
    if outcome.error in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return (
            f"unreachable ({outcome.failure})",
            "there is no route, or a firewall says so: take an interface that all hosts share (GLOOMPI_SOCKET_IFNAME)",
        )
    if outcome.error in (None, errno.ETIMEDOUT) and "no answer" in outcome.failure:
        return (
            f"timed out ({outcome.failure})",
            "filtered: a firewall drops the packets (open a range and set GLOOMPI_PORT_RANGE=low:high), or the address is "
            "of a network that the other host cannot reach (GLOOMPI_SOCKET_IFNAME, GLOOMPI_ADVERTISE behind NAT)",
        )
    return outcome.failure, "run with GLOOMPI_LOG_LEVEL=debug to see every attempt"


def _shown(pairs: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{one}-{other}" for one, other in pairs[:6])
    return shown + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else "")


def _trouble(exam: Examination) -> Iterator[Finding]:
    if exam.silence is not None:
        yield Finding(
            Severity.ERROR,
            f"some rank did not say what it measured, so this is only what rank 0 knows: {exam.silence.reason}",
            "look whether all processes of the job live and run",
        )
    for rank, text in enumerate(exam.trouble):
        if text:
            yield Finding(Severity.ERROR, f"{exam.who(rank)} stopped measuring: {text}")
            return  # the others stopped because it did


def _limits(exam: Examination) -> Iterator[Finding]:
    for host in range(len(exam.hosts)):
        facts = min((exam.facts[rank] for rank in exam.ranks(host)), key=lambda each: each.open_files % (1 << 62))
        limit, used = facts.open_files, facts.open_files_used
        possible = max(0, limit - used - _SPARE_FILES)
        if limit >= 0 and (limit < _FEW_FILES or possible < exam.size):
            yield Finding(
                Severity.ERROR if possible < exam.size else Severity.WARNING,
                f"{exam.who(facts.rank)} may open {limit} files and has {used} open: enough for "
                f"{counted(possible, 'rank')}, there are {exam.size}",
                _files_advice(exam, facts.rank),
            )
        if 0 < facts.somaxconn < exam.size:
            yield Finding(
                Severity.WARNING,
                f"{exam.hosts[host]} lets {facts.somaxconn} connections wait at a listening socket (somaxconn), there are "
                f"{exam.size} ranks: connecting may take seconds longer",
                "ask the administrators for net.core.somaxconn=4096",
            )


def _files_advice(exam: Examination, rank: int) -> str:
    hard, good = exam.facts[rank].open_files_hard, max(_GOOD_FILES, 2 * exam.size)
    if 0 <= hard < good:
        return f"ulimit -n {good} in the job script, once the administrators have raised the hard limit, which is {hard}"
    return f"ulimit -n {good} in the job script"


def _interfaces(exam: Examination) -> Iterator[Finding]:
    usable = [_usable(exam, host) for host in range(len(exam.hosts))]
    having = Counter(name for names in usable for name in names)
    for name, count in sorted(having.items()):
        without: dict[str, list[str]] = {}
        for host, names in enumerate(usable):
            if name not in names:
                without.setdefault(_state(exam, host, name), []).append(exam.hosts[host])
        if without and count > len(exam.hosts) - count:
            states = ", ".join(f"{state} on {', '.join(hosts)}" for state, hosts in without.items())
            yield Finding(
                Severity.WARNING,
                f"interface {name} is {states}; {count} other hosts have it",
                "ask the administrators; until then name an interface that all hosts have (GLOOMPI_SOCKET_IFNAME)",
            )


def _state(exam: Examination, host: int, name: str) -> str:
    """Why an interface does not lead to other hosts."""
    ports = {port.name: port for port in exam.facts[exam.ranks(host)[0]].interfaces}
    if name not in ports:
        return "missing"
    return "without address" if ports[name].up else "down"


def _encryption(exam: Examination) -> Iterator[Finding]:
    able = [rank for rank in range(len(exam.encrypts)) if not exam.failures[rank]]
    does, does_not = ([rank for rank in able if exam.encrypts[rank] is wanted] for wanted in (True, False))
    if does and does_not:
        yield Finding(
            Severity.ERROR,
            f"{exam.who(does_not[0])} does not encrypt and {exam.who(does[0])} does: no program can connect them, and here "
            f"they were connected without TLS",
            "set GLOOMPI_TLS=1 on all ranks, or on none",
        )


def _settings(exam: Examination) -> Iterator[Finding]:
    ranks: dict[str, list[int]] = {}
    for facts in exam.facts:
        for text in facts.no_settings:
            ranks.setdefault(text, []).append(facts.rank)
    for text, those in ranks.items():
        where = "" if len(those) == exam.size else f" (set for rank {', '.join(map(str, those))})"
        yield Finding(Severity.WARNING, f"{text}{where}")


def _software(exam: Examination) -> Iterator[Finding]:
    for name in sorted({name for facts in exam.facts for name in facts.versions}):
        versions = [facts.versions.get(name, "missing") for facts in exam.facts]
        if len(set(versions)) > 1:
            odd = Counter(versions).most_common()[-1][0]
            yield Finding(
                Severity.WARNING,
                f"the ranks have different versions of {name}: {', '.join(sorted(set(versions)))}; {odd} on "
                f"{exam.who(versions.index(odd))}",
                "use one environment on all hosts",
            )
    facts = exam.facts[0]
    if facts.launched_size > exam.size == 1:
        yield Finding(
            Severity.ERROR,
            f"{facts.launcher} has started {facts.launched_size} processes, but this is a job of 1 rank",
            "this is the wrong mpiexec for this mpi4py: use the one beside the python in use",
        )
    for host, name in enumerate(exam.hosts):
        if exam.crowded(host):
            ranks, cores = len(exam.ranks(host)), exam.cores(host)
            text = f"{name} has {counted(ranks, 'rank')} on {counted(cores, 'core')}: they wait for each other"
            yield Finding(Severity.NOTE, text)


def _loads(exam: Examination) -> Iterator[Finding]:
    for host, name in enumerate(exam.hosts):
        if exam.loaded(host):
            facts = exam.facts[exam.ranks(host)[0]]
            yield Finding(
                Severity.NOTE,
                f"{name} is busy: {exam.load(host):.1f} processes besides this job's ranks want to run on its "
                f"{counted(facts.processors, 'core')} (load average of the last minute)",
                "see what it is (top); what is measured beside it is worse than it need be",
            )


def _clocks(exam: Examination) -> Iterator[Finding]:
    for host, name in enumerate(exam.hosts):
        clock = exam.clock(exam.ranks(host)[0])
        if clock is not None and abs(clock) > _CLOCK_SECONDS:
            yield Finding(
                Severity.WARNING,
                f"the clock of {name} is {abs(clock):.1f} s {'ahead of' if clock > 0 else 'behind'} that of {exam.hosts[0]}",
                "times in log files cannot be compared; ask the administrators for NTP",
            )


def _speed(exam: Examination) -> Iterator[Finding]:
    for text in slow_hosts_and_pairs(exam):
        yield Finding(
            Severity.WARNING, text, "look for load, a wrong interface (GLOOMPI_SOCKET_IFNAME), a bad cable or switch"
        )


_LOOKS: tuple[Callable[[Examination], Iterator[Finding]], ...] = (
    _listening,
    _connections,
    _encryption,
    _trouble,
    _limits,
    _settings,
    _software,
    _loads,
    _interfaces,
    _speed,
    _clocks,
)
