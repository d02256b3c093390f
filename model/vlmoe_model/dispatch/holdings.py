"""Which rank holds which experts of every mixture, copies included: what a rank loads, and where tokens may go.

Plain numbers: whoever places experts hands this value in.
"""

# V, T: the pools of experts, for image and for text tokens

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vlmoe_model.config import ModelConfig

ROUTED_POOLS = ("V", "T")

# experts of each routed pool, ascending
Held = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """layers: by block, what each rank holds.

    Raises:
        ValueError: an expert lies nowhere, or twice on one rank, or layers have different numbers of ranks.
    """

    layers: Mapping[int, tuple[Held, ...]]

    def __post_init__(self) -> None:
        if len({len(ranks) for ranks in self.layers.values()}) > 1:
            raise ValueError("every mixture must be held by the same ranks")
        for block, ranks in self.layers.items():
            for pool, name in enumerate(ROUTED_POOLS):
                everyone = sorted({expert for held in ranks for expert in held[pool]})
                if everyone != list(range(len(everyone))):
                    raise ValueError(
                        f"block {block}: experts of pool {name} must count from 0, got {everyone}"
                    )
                for rank, held in enumerate(ranks):
                    if list(held[pool]) != sorted(set(held[pool])):
                        raise ValueError(
                            f"block {block}: rank {rank} must hold different experts of pool {name}, ascending, "
                            f"got {held[pool]}"
                        )

    def check(self, config: ModelConfig, num_ranks: int) -> None:
        """Whether this is for that network and that many ranks.

        Raises:
            ValueError: it is not.
        """
        if sorted(self.layers) != sorted(config.moe_blocks):
            raise ValueError(
                f"experts are placed for blocks {sorted(self.layers)}, the mixtures are {sorted(config.moe_blocks)}"
            )
        for block, ranks in self.layers.items():
            if len(ranks) != num_ranks:
                raise ValueError(f"experts are placed on {len(ranks)} ranks, there are {num_ranks}")
            for pool, name in enumerate(ROUTED_POOLS):
                num = len({expert for held in ranks for expert in held[pool]})
                if num != config.num_experts:
                    raise ValueError(
                        f"block {block}: {num} experts of pool {name} are placed, there are {config.num_experts}"
                    )

    def of(self, rank: int) -> dict[tuple[int, str], Sequence[int]]:
        """By (block, pool), the experts of one rank."""
        return {
            (block, name): ranks[rank][pool]
            for block, ranks in self.layers.items()
            for pool, name in enumerate(ROUTED_POOLS)
        }

    @classmethod
    def even(cls, config: ModelConfig, num_ranks: int) -> "Holdings":
        """Neighbours together, as many on every rank as its neighbour or one more; no copies."""
        bounds = [-(-rank * config.num_experts // num_ranks) for rank in range(num_ranks + 1)]
        shares = [tuple(range(first, end)) for first, end in pairwise(bounds)]
        return cls(dict.fromkeys(config.moe_blocks, tuple((share, share) for share in shares)))
