"""Columns in turns: whatever else the machine does falls on all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_TURNS = 5


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one column's turns."""

    turns: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Half of the turns took longer."""
        return statistics.median(self.turns)

    @property
    def best_s(self) -> float:
        """The shortest turn."""
        return min(self.turns)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, as a share of the median."""
        low, middle, high = statistics.quantiles(self.turns, n=4)
        return (high - low) / middle


def interleaved(
    ops: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Times]:
    """Time every operation once a turn, for about that long and at least `MIN_TURNS` turns, after one untimed turn."""
    for op in ops.values():
        op()
    turns: dict[str, list[float]] = {name: [] for name in ops}
    end_s = clock() + seconds
    while clock() < end_s or len(next(iter(turns.values()))) < MIN_TURNS:
        for name, op in ops.items():
            start_s = clock()
            op()
            turns[name].append(clock() - start_s)
    return {name: Times(tuple(each)) for name, each in turns.items()}
