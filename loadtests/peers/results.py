"""What was measured: figures, by server and round, in a file that later runs add to."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(slots=True)
class Figures:
    """Of one server in one round.

    start_s: until its first answer. pss_mb: of all its processes, warm. alone_: one caller. many_: so many callers in a
    closed loop; rate in answers a second. cpu_ms: processor time of all its processes an answer, client_cpu_ms: of the
    load generator. loaded_: Poisson arrivals at a share of our capacity; without a limit on how long callers wait.
    good: answers within the objective a second, at each overload. idle_share: of a core, while nobody asks.
    """

    start_s: float
    pss_mb: float = 0.0
    alone_p50_ms: float = 0.0
    alone_p99_ms: float = 0.0
    many_rate: float = 0.0
    many_p50_ms: float = 0.0
    many_p99_ms: float = 0.0
    many_failed: int = 0
    cpu_ms: float = 0.0
    client_cpu_ms: float = 0.0
    loaded_p50_ms: float = 0.0
    loaded_p99_ms: float = 0.0
    loaded_answered: float = 0.0
    good: list[float] = field(default_factory=list)
    idle_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """Figures of one server in one round."""

    round: int
    system: str
    version: str
    figures: Figures


@dataclass(slots=True)
class Results:
    """Everything measured so far at one capacity, in answers a second. about: how. skipped: why, by server."""

    capacity: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """What `write` wrote; empty where there is no such file."""
        if not path.exists():
            return cls()
        found = json.loads(path.read_text())
        found["trials"] = [
            Trial(**{**each, "figures": Figures(**each["figures"])}) for each in found["trials"]
        ]
        return cls(**found)

    def write(self, path: Path) -> None:
        """As a whole or not at all: a run may be ended at any time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(part, path)

    def add(self, trial: Trial) -> None:
        """Another one; a round that is measured again counts once."""
        self.skipped.pop(trial.system, None)
        same = (trial.round, trial.system)
        self.trials = [each for each in self.trials if (each.round, each.system) != same]
        self.trials.append(trial)

    def has(self, number: int, system: str) -> bool:
        """Whether a server was measured in this round."""
        return any((each.round, each.system) == (number, system) for each in self.trials)

    def of(self, system: str) -> list[Trial]:
        """A server's, by round."""
        return sorted((each for each in self.trials if each.system == system), key=lambda each: each.round)

    def medians(self, system: str) -> Figures:
        """A server's figures, each the median over its rounds.

        Raises:
            ValueError: it was not measured.
        """
        rows = [asdict(each.figures) for each in self.of(system)]
        if not rows:
            raise ValueError(f"{system} was not measured")
        middle: dict[str, Any] = {}
        for name, value in rows[0].items():
            column = [row[name] for row in rows]
            is_list = isinstance(value, list)
            middle[name] = [median(each) for each in zip(*column, strict=True)] if is_list else median(column)
        return Figures(**middle)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each begins with another server, so that no one always follows the same."""
    start = number % max(len(names), 1)
    return [*names[start:], *names[:start]]
