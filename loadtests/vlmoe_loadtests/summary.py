"""From records to figures. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmoe_loadtests.records import Record

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """One run.

    seconds: its length, in which `num` requests were due. offered, throughput, goodput: inputs a second, of all
    requests, of those answered, and of those answered within the objective. outcomes: how often each. percentiles_ms:
    of answered requests, by percent. phases_ms: medians of what the server says about itself. late_ms: by how much
    the generator itself was late at worst.
    """

    seconds: float
    num: int
    offered: float
    throughput: float
    goodput: float
    outcomes: dict[str, int]
    percentiles_ms: dict[int, float]
    phases_ms: dict[str, float]
    late_ms: float


def summarize(
    records: Sequence[Record], seconds: float, objective_ms: float, *, skip_s: float = 0.0
) -> Summary:
    """The figures of the requests that were due after `skip_s`, which is left to warm up.

    Raises:
        ValueError: there are none.
    """
    seen = [record for record in records if record.due_s >= skip_s]
    if not seen:
        raise ValueError("no request was due in the measured time")
    length_s = seconds - skip_s
    ok = [record for record in seen if record.outcome == "ok"]
    latencies = sorted(record.latency_ms for record in ok)
    good = [record for record in ok if record.latency_ms <= objective_ms]
    return Summary(
        seconds=length_s,
        num=len(seen),
        offered=_inputs(seen) / length_s,
        throughput=_inputs(ok) / length_s,
        goodput=_inputs(good) / length_s,
        outcomes=dict(Counter(record.outcome for record in seen).most_common()),
        percentiles_ms={percent: percentile(latencies, percent) for percent in PERCENTILES},
        phases_ms={
            phase: percentile(sorted(getattr(record, f"{phase}_ms") for record in ok), 50)
            for phase in ("encode", "queue", "forward")
        },
        late_ms=max(1000 * (record.sent_s - record.due_s) for record in seen),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed; not a number where there is none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def table(rows: Iterable[tuple[str, Summary]]) -> str:
    """One line a run."""
    heads = ["load", "offered/s", "answered/s", "good/s", *(f"p{p} ms" for p in PERCENTILES), "outcomes"]
    lines = [heads]
    for name, summary in rows:
        lines.append(
            [
                name,
                *(f"{value:.1f}" for value in (summary.offered, summary.throughput, summary.goodput)),
                *(f"{value:.1f}" for value in summary.percentiles_ms.values()),
                ", ".join(f"{outcome} {count}" for outcome, count in summary.outcomes.items()),
            ]
        )
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the last as it comes, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell if column == last else cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _inputs(records: Iterable[Record]) -> int:
    return sum(record.num_inputs for record in records)
