"""From results to a table in Markdown: a row a server, medians over rounds, the best of each column in bold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from peers.results import Figures, Results
from peers.systems import System
from peers.trial import BUSY_SHARE


@dataclass(frozen=True, slots=True)
class Column:
    """One column. values: numbers of a cell. digits: after the point. up: more is better."""

    head: str
    values: Callable[[Figures], Sequence[float]]
    digits: int = 0
    up: bool = False


COLUMNS = (
    Column("alone p50 / p99 ms", lambda f: (f.alone_p50_ms, f.alone_p99_ms), 1),
    Column("32 clients answers/s", lambda f: (f.many_rate,), up=True),
    Column("p50 / p99 ms", lambda f: (f.many_p50_ms, f.many_p99_ms)),
    Column("CPU ms an answer", lambda f: (f.cpu_ms,), 2),
    Column("p50 / p99 ms at 0.7", lambda f: (f.loaded_p50_ms, f.loaded_p99_ms)),
    Column("good/s at 1.5 / 3", lambda f: f.good, up=True),
    Column("start s", lambda f: (f.start_s,), 1),
    Column("idle CPU %", lambda f: (100 * f.idle_share,), 1),
    Column("PSS MB", lambda f: (f.pss_mb,)),
    Column("client CPU ms", lambda f: (f.client_cpu_ms,), 2),
)
# the client's own cost is nobody's merit
_UNRANKED = {"client CPU ms"}


def markdown(results: Results, systems: Mapping[str, System]) -> str:
    """The table, what was skipped, and how each server was set."""
    rows = {name: results.medians(name) for name in systems if results.of(name)}
    lines = ["| | " + " | ".join(column.head for column in COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, figures in rows.items():
        told = systems[name].shown if systems[name].requirements is None else _titled(results, systems[name])
        cells = [_cell(column, figures, list(rows.values())) for column in COLUMNS]
        lines.append(f"| {told} | " + " | ".join(cells) + " |")
    lines += ["", "How each was set:", ""]
    lines += [f"- {systems[name].shown}: {systems[name].settings}{_apart(rows[name])}" for name in rows]
    if results.skipped:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {why}" for name, why in results.skipped.items()]
    return "\n".join(lines) + "\n"


def _apart(figures: Figures) -> str:
    return "; busy while idle, so measured apart" if figures.idle_share > BUSY_SHARE else ""


def _titled(results: Results, system: System) -> str:
    package, _, where = system.shown.partition(",")
    return f"{package} {results.of(system.name)[-1].version}" + (f",{where}" if where else "")


def _cell(column: Column, figures: Figures, rows: Sequence[Figures]) -> str:
    told = []
    for position, value in enumerate(column.values(figures)):
        shown = f"{value:.{column.digits}f}"
        others = [values[position] for row in rows if len(values := column.values(row)) > position]
        first = max(others) if column.up else min(others)
        told.append(f"**{shown}**" if value == first and column.head not in _UNRANKED else shown)
    return " / ".join(told) or "-"
