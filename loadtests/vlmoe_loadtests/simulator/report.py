"""From fates to a line of the table. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlmoe_loadtests.simulator.simulation import Fate
from vlmoe_loadtests.summary import aligned, percentile

# Who waited longer than this, refused ones aside, counts as starved.
STARVED_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Report:
    """One policy on one workload.

    throughput, goodput: tickets a second answered, and answered in time. p50_ms, p99_ms: of those answered.
    missed: share of the tickets with a deadline that were not answered in time, refused ones included; late: share
    computed in vain, after their deadline. starved: tickets that waited longer than 10 s.
    """

    throughput: float
    goodput: float
    p50_ms: float
    p99_ms: float
    missed: float
    late: float
    refused: float
    starved: int


def report(fates: Sequence[Fate]) -> Report:
    """The figures of a run."""
    answered = [fate for fate in fates if fate.outcome == "answered"]
    bound = [fate for fate in fates if fate.ticket.deadline_s is not None]
    end_s = max(fate.done_s for fate in fates) - min(fate.ticket.arrival_s for fate in fates)
    latencies = sorted(fate.latency_ms for fate in answered)
    return Report(
        throughput=len(answered) / end_s,
        goodput=sum(fate.in_time for fate in fates) / end_s,
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        missed=sum(not fate.in_time for fate in bound) / max(1, len(bound)),
        late=sum(not fate.in_time for fate in answered) / max(1, len(answered)),
        refused=sum(fate.outcome == "refused" for fate in fates) / len(fates),
        starved=sum(fate.latency_ms > STARVED_MS for fate in answered),
    )


def table(rows: Sequence[tuple[str, str, Report]]) -> str:
    """One line a policy and workload."""
    heads = [
        "workload",
        "policy",
        "answered/s",
        "in time/s",
        "p50 ms",
        "p99 ms",
        "missed",
        "in vain",
        "refused",
    ]
    lines = [[*heads, "starved"]]
    for workload, policy, found in rows:
        lines.append(
            [
                workload,
                policy,
                f"{found.throughput:.1f}",
                f"{found.goodput:.1f}",
                f"{found.p50_ms:.0f}",
                f"{found.p99_ms:.0f}",
                *(f"{100 * share:.1f} %" for share in (found.missed, found.late, found.refused)),
                str(found.starved),
            ]
        )
    return aligned(lines)
