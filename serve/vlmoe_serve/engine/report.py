"""What an engine has done since it last told: the front adds it up for its metrics. Knows no torch."""

# L = MoE layers, X = experts of both pools (image pool first), G = ranks

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLoad:
    """Routed tokens. A layer of a step in which no token was routed does not count.

    layers: blocks that are mixtures, ascending. pools: experts of the image and of the text pool.
    tokens_LX: tokens that chose an expert. rank_tokens_G: tokens that a rank computed, over all layers.
    num_layers: layers of all steps. busiest, mean: sums over them of the busiest rank's and of the mean rank's tokens.
    ratio, balance: sums over them of busiest / mean, and of mean / busiest.
    all_to_all_bytes: what went from rank to rank, there and back.
    """

    layers: tuple[int, ...]
    pools: tuple[int, int]
    tokens_LX: npt.NDArray[np.int64]
    rank_tokens_G: npt.NDArray[np.int64]
    num_layers: int
    busiest: float
    mean: float
    ratio: float
    balance: float
    all_to_all_bytes: int

    def plus(self, other: "ExpertLoad") -> "ExpertLoad":
        """Both together; the same mixtures and ranks."""
        return ExpertLoad(
            self.layers,
            self.pools,
            self.tokens_LX + other.tokens_LX,
            self.rank_tokens_G + other.rank_tokens_G,
            self.num_layers + other.num_layers,
            self.busiest + other.busiest,
            self.mean + other.mean,
            self.ratio + other.ratio,
            self.balance + other.balance,
            self.all_to_all_bytes + other.all_to_all_bytes,
        )

    def is_like(self, other: "ExpertLoad") -> bool:
        """Whether the two can be added."""
        return (self.layers, self.pools, len(self.rank_tokens_G)) == (
            other.layers,
            other.pools,
            len(other.rank_tokens_G),
        )


@dataclass(frozen=True, slots=True)
class ExpertMemory:
    """Experts under a budget of memory. One use: one expert that has rows, in one mixture of one batch.

    budget_bytes, resident_bytes, locked_bytes: now. in_memory, ahead, missed: uses whose expert lay in memory, came
    there because it had been predicted, or had to be waited for. read_bytes: from the file. wait_s: for all of them.
    """

    budget_bytes: int
    resident_bytes: int
    locked_bytes: int
    in_memory: int
    ahead: int
    missed: int
    read_bytes: int
    wait_s: float

    def plus(self, later: "ExpertMemory") -> "ExpertMemory":
        """The counts of both, and the later state."""
        return ExpertMemory(
            later.budget_bytes,
            later.resident_bytes,
            later.locked_bytes,
            self.in_memory + later.in_memory,
            self.ahead + later.ahead,
            self.missed + later.missed,
            self.read_bytes + later.read_bytes,
            self.wait_s + later.wait_s,
        )


Refusal = Literal["gain", "payback", "failed"]


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What re-balancing did. num_plans: made. num_moved: copies of experts that ranks received. refused: plans, by why.

    refused: "gain": too little of it; "payback": the moves would not pay back in time; "failed": weights that could
    not be read, or no process to plan.
    """

    num_plans: int = 0
    num_moved: int = 0
    moved_bytes: int = 0
    refused: Mapping[Refusal, int] = field(default_factory=dict)

    def plus(self, other: "MoveReport") -> "MoveReport":
        """Both together."""
        whys = {**self.refused, **other.refused}
        refused = {why: self.refused.get(why, 0) + other.refused.get(why, 0) for why in whys}
        return MoveReport(
            self.num_plans + other.num_plans,
            self.num_moved + other.num_moved,
            self.moved_bytes + other.moved_bytes,
            refused,
        )


@dataclass(frozen=True, slots=True, eq=False)
class EngineReport:
    """What an engine has done since its last report.

    load: None where no mixture is watched. memory_G: resident bytes of each rank, now. experts: None where there is no
    budget for them. device_bytes: of a GPU's memory, held by this engine, now; 0 on CPU.
    """

    load: ExpertLoad | None
    memory_G: tuple[int, ...]
    experts: ExpertMemory | None = None
    moves: MoveReport = field(default_factory=MoveReport)
    device_bytes: int = 0
