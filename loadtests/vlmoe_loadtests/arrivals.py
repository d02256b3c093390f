"""When requests come: seconds from the start, ascending. Pure, and the same for the same seed.

An open loop sends on time whether or not the server has answered; a server that falls behind is not spared.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# Bursts: this part of the time has this much of the load, at the same mean rate.
_BURST_SHARE, _BURST_LOAD = 0.2, 0.8
_BURST_CYCLE_S = 2.0


def constant(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Evenly spaced."""
    yield from (index / rate for index in range(round(rate * seconds)))


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Independent users: exponential gaps."""
    dice = random.Random(seed)
    now_s = dice.expovariate(rate)
    while now_s < seconds:
        yield now_s
        now_s += dice.expovariate(rate)


def bursts(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Poisson arrivals of which four fifths fall into a fifth of the time, every two seconds."""
    for unit_s in poisson(rate, seconds, seed):
        # Time is stretched outside bursts and compressed inside, so every cycle keeps its number of arrivals.
        cycle, within = divmod(unit_s / _BURST_CYCLE_S, 1.0)
        if within < _BURST_LOAD:
            within *= _BURST_SHARE / _BURST_LOAD
        else:
            within = _BURST_SHARE + (within - _BURST_LOAD) * (1 - _BURST_SHARE) / (1 - _BURST_LOAD)
        yield (cycle + within) * _BURST_CYCLE_S


ARRIVALS: Mapping[str, Callable[[float, float, int], Iterator[float]]] = {
    "poisson": poisson,
    "bursts": bursts,
    "constant": constant,
}


def recorded(path: Path) -> list[float]:
    """Arrivals from a file, one a line, in seconds; they are moved so that the first comes at 0.

    Raises:
        ValueError: a line is no number, or there is none.
    """
    times = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            times.append(float(line.partition(",")[0]))
        except ValueError:
            raise ValueError(f"{path}:{number}: not a number of seconds: {line[:40]!r}") from None
    if not times:
        raise ValueError(f"{path}: no arrivals")
    first_s = min(times)
    return sorted(one - first_s for one in times)
