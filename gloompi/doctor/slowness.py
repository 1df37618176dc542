"""Which hosts and pairs are slow, compared with the others of their kind.

Numbers of different machines differ by orders of magnitude, so there are few absolute bounds: a link that reaches little of
what its own interface claims, and round trips that no machine needs but one whose cores are busy with something else.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from .examination import Examination, Wire

__all__ = ["slow_hosts_and_pairs", "suspects"]

# Less than this part of the best bandwidth among its like is slow. In 52 healthy runs of 6 ranks on 2 cores, some with
# other work beside them, the worst link had 0.54 of the best.
_SLOW_PART = 0.25
# Less than this part of the speed that the interface claims; no more than 10 Gbit/s is expected of one stream.
_CLAIM_PART = 0.2
_ONE_STREAM = 1.25e9
# A round trip that takes this many times the best, and this much longer, is slow.
_SLOW_TIMES, _SLOW_SECONDS = 5.0, 1e-3
# Within a host, a round trip of the best pair takes 20 to 200 us, in one network up to some hundred more; 6 ms were seen
# within a host whose cores were busy.
_HOST_SECONDS, _NETWORK_SECONDS = 1e-3, 5e-3


def slow_hosts_and_pairs(exam: Examination) -> Iterator[str]:
    """Say what is slow: within hosts; hosts, then links between hosts that are not slow themselves; then single pairs."""
    for wire in exam.wires():
        # Ranks that share cores wait for each other, which is no wonder and no fault.
        if wire.one == wire.other and (exam.loaded(wire.one) or not exam.crowded(wire.one)):
            late = _late(exam, wire, _HOST_SECONDS)
            if late:
                yield f"round trips within {exam.hosts[wire.one]} are slow: {late}"
    wires = [wire for wire in exam.wires() if wire.one != wire.other]
    slow = [wire for wire in wires if _complaint(exam, wire, wires)]
    slow_hosts = []
    for host, name in enumerate(exam.hosts):
        mine = [wire for wire in wires if host in (wire.one, wire.other)]
        if len(wires) > len(mine) > 1 and all(wire in slow for wire in mine) and any(wire not in slow for wire in wires):
            slow_hosts.append(host)
            best = max(wire.bandwidth for wire in wires)
            reached = max(wire.bandwidth for wire in mine)
            yield (
                f"host {name} is slow: {reached / 1e6:.0f} MB/s at best to every other host, other hosts have "
                f"{best / 1e6:.0f} MB/s between them; its round trips take {min(wire.seconds for wire in mine) * 1e6:.0f} us"
            )
    for wire in slow:
        if wire.one not in slow_hosts and wire.other not in slow_hosts:
            yield f"the link {exam.hosts[wire.one]} - {exam.hosts[wire.other]} is slow: {_complaint(exam, wire, wires)}"
    for one, other, rate, usual in _slow_pairs(exam):
        yield (
            f"the pair {exam.who(one)} - {exam.who(other)} is slow: {rate / 1e6:.0f} MB/s, other pairs of its hosts have "
            f"{usual / 1e6:.0f} MB/s"
        )


def _complaint(exam: Examination, wire: Wire, wires: list[Wire]) -> str:
    """What is slow about a link between hosts; empty if nothing is."""
    best = max(each.bandwidth for each in wires)
    if wire.bandwidth < _SLOW_PART * best:
        return f"{wire.bandwidth / 1e6:.0f} MB/s, the best link has {best / 1e6:.0f} MB/s"
    claims = _claimed(exam, wire.one), _claimed(exam, wire.other)
    claim = min(_ONE_STREAM, *claims)
    if all(claims) and wire.bandwidth < _CLAIM_PART * claim:
        return f"{wire.bandwidth / 1e6:.0f} MB/s over interfaces that claim {claim / 1e6:.0f} MB/s or more"
    shortest = min(each.seconds for each in wires)
    if wire.seconds > max(_SLOW_TIMES * shortest, shortest + _SLOW_SECONDS):
        return f"a round trip takes {wire.seconds * 1e6:.0f} us, {shortest * 1e6:.0f} us on the fastest link"
    one, other = exam.pair_between(wire.one, wire.other)
    shared = exam.outcomes[max(one, other)][min(one, other)].why.startswith("shared subnet")
    return _late(exam, wire, _NETWORK_SECONDS) if shared else ""


def _late(exam: Examination, wire: Wire, limit: float) -> str:
    """What is slow about round trips that should not take as long, whatever the machine; empty if nothing is."""
    if wire.seconds < limit:
        return ""
    loaded = [host for host in dict.fromkeys((wire.one, wire.other)) if exam.loaded(host)]
    return f"{wire.seconds * 1e6:.0f} us at best, less than {limit * 1e6:.0f} us are usual" + "".join(
        f"; {exam.hosts[host]} is busy with something else (load {exam.load(host):.1f})" for host in loaded
    )


def _claimed(exam: Examination, host: int) -> float:
    """What the slowest interface that the host listens on claims, bytes per second; 0 if none says anything."""
    rank = exam.ranks(host)[0]
    used = {address.rpartition(":")[0].strip("[]") for address in exam.published[rank]}
    speeds = [
        port.speed * 1e6 / 8
        for port in exam.facts[rank].interfaces
        if port.speed and used & {address.partition("/")[0] for address in port.addresses}
    ]
    return min(speeds, default=0.0)


def suspects(exam: Examination) -> list[tuple[int, int]]:
    """Pairs that are much slower than others between the same hosts.

    Ranks that share cores are not judged: their times are those of the scheduler.
    """
    return [(one, other) for one, other, _, _ in _slow_pairs(exam)]


def _slow_pairs(exam: Examination) -> Iterator[tuple[int, int, float, float]]:
    """Two ranks, the bandwidth of their slower direction and the median of it between their hosts."""
    alike: dict[tuple[int, int], list[tuple[int, int, float]]] = {}
    for one, other in exam.pairs():
        rates = exam.bandwidth(one, other), exam.bandwidth(other, one)
        hosts = exam.host(one), exam.host(other)
        if all(rates):
            alike.setdefault((min(hosts), max(hosts)), []).append((one, other, min(filter(None, rates))))
    for hosts, pairs in alike.items():
        usual = statistics.median(rate for _, _, rate in pairs)
        if len(pairs) >= 3 and not any(exam.crowded(host) for host in hosts):
            yield from ((one, other, rate, usual) for one, other, rate in pairs if rate < _SLOW_PART * usual)
