"""Which rank holds which experts: a value that cannot be wrong, and its file.

    Placement(layers, pools, slots_LGK) --to_json--> FILE --read_placement--> Placement

Experts of both pools stand in one numbering, the image pool's first: expert e of the text pool is `pools[0] + e`.
"""

# L = MoE layers, G = ranks, K = slots of a rank, X = experts of both pools

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

POOLS = ("V", "T")
EMPTY = -1
_VERSION = 1

Slots = npt.NDArray[np.int32]


class PlacementError(ValueError):
    """A placement that breaks an invariant, or a file that holds none; one line."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Physical slots to experts, for every MoE layer.

    layers: blocks of the network that are mixtures, ascending. pools: experts of the image and of the text pool.
    slots_LGK: int32, the expert in each slot of each rank, EMPTY for none. Read-only.

    Raises:
        PlacementError: an expert lies nowhere, lies twice on one rank, or does not exist; shapes do not fit.
    """

    layers: tuple[int, ...]
    pools: tuple[int, int]
    slots_LGK: Slots

    def __post_init__(self) -> None:
        slots = self.slots_LGK
        if slots.ndim != 3 or slots.dtype != np.int32:
            raise PlacementError(
                f"slots must be int32 [layers, ranks, slots], got {slots.dtype} {slots.shape}"
            )
        if len(self.layers) != slots.shape[0] or list(self.layers) != sorted(set(self.layers)):
            raise PlacementError(
                f"{slots.shape[0]} layers of slots need as many ascending blocks, got {self.layers}"
            )
        if min(self.pools) < 0 or self.num_experts < 1:
            raise PlacementError(f"pools must hold at least one expert, got {self.pools}")
        if slots.size and not (slots.min() >= EMPTY and slots.max() < self.num_experts):
            raise PlacementError(f"experts must be below {self.num_experts}, got {int(slots.max())}")
        count_LGX = _count(slots, self.num_experts)
        if (count_LGX > 1).any():
            layer, rank, expert = np.argwhere(count_LGX > 1)[0]
            raise PlacementError(
                f"layer {self.layers[layer]}: {self.name(int(expert))} lies twice on rank {rank}"
            )
        missing_LX = ~(count_LGX > 0).any(axis=1)
        if missing_LX.any():
            layer, expert = np.argwhere(missing_LX)[0]
            raise PlacementError(f"layer {self.layers[layer]}: {self.name(int(expert))} lies on no rank")
        slots.setflags(write=False)

    @property
    def num_ranks(self) -> int:
        """Ranks that hold experts."""
        return int(self.slots_LGK.shape[1])

    @property
    def slots_per_rank(self) -> int:
        """Physical slots of a rank in one layer, over both pools."""
        return int(self.slots_LGK.shape[2])

    @property
    def num_experts(self) -> int:
        """Experts of both pools of one layer."""
        return sum(self.pools)

    @property
    def hosts_LXG(self) -> npt.NDArray[np.bool_]:
        """Whether a rank holds an expert."""
        return (_count(self.slots_LGK, self.num_experts) > 0).transpose(0, 2, 1)

    def name(self, expert: int) -> str:
        """How messages call an expert of the common numbering."""
        pool = int(expert >= self.pools[0])
        return f"expert {expert - pool * self.pools[0]} of pool {POOLS[pool]}"

    def moved_experts(self, before: "Placement") -> int:
        """Copies that a rank must receive to come here from another placement of the same model."""
        if (before.layers, before.pools, before.num_ranks) != (self.layers, self.pools, self.num_ranks):
            raise PlacementError("placements of different models or numbers of ranks cannot be compared")
        return int((self.hosts_LXG & ~before.hosts_LXG).sum())

    def to_json(self, **notes: object) -> str:
        """As a file holds it, one layer a line.

        Args:
            notes: what else to write down, such as `policy` or `model_id`; readers ignore it.
        """
        head = json.dumps(
            {
                "version": _VERSION,
                "dispatch": "counts",
                **notes,
                "pools": dict(zip(POOLS, self.pools, strict=True)),
                "slots_per_rank": self.slots_per_rank,
            }
        )
        lines = [
            json.dumps({"layer": layer, "ranks": [self._rank(slots_K) for slots_K in slots_GK]})
            for layer, slots_GK in zip(self.layers, self.slots_LGK, strict=True)
        ]
        return head[:-1] + ', "layers": [\n' + ",\n".join(lines) + "\n]}\n"

    def _rank(self, slots_K: Slots) -> dict[str, list[int]]:
        held, first = sorted(int(x) for x in slots_K if x != EMPTY), self.pools[0]
        return {"V": [x for x in held if x < first], "T": [x - first for x in held if x >= first]}


def place(
    layers: Sequence[int],
    pools: tuple[int, int],
    ranks_LG: Sequence[Sequence[Sequence[int]]],
    slots_per_rank: int,
) -> Placement:
    """A placement from the experts of every rank, in any order.

    Raises:
        PlacementError: a rank holds more experts than it has slots, or an invariant is broken.
    """
    num_ranks = len(ranks_LG[0]) if ranks_LG else 0
    slots = np.full((len(layers), num_ranks, slots_per_rank), EMPTY, np.int32)
    for position, ranks in enumerate(ranks_LG):
        if len(ranks) != num_ranks:
            raise PlacementError(f"layer {layers[position]} has {len(ranks)} ranks, others {num_ranks}")
        for rank, experts in enumerate(ranks):
            if len(experts) > slots_per_rank:
                raise PlacementError(
                    f"layer {layers[position]}: rank {rank} holds {len(experts)} experts in {slots_per_rank} slots"
                )
            slots[position, rank, : len(experts)] = sorted(experts)
    return Placement(tuple(layers), pools, slots)


def read_placement(path: Path) -> Placement:
    """The placement of a file.

    Raises:
        PlacementError: not readable, not a placement, or an invariant is broken.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlacementError(f"{path}: cannot be read as JSON: {error}") from None
    try:
        return _parse(values)
    except PlacementError as error:
        raise PlacementError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise PlacementError(f"{path}: not a placement ({type(error).__name__}: {error})") from None


def _parse(values: Mapping[str, Any]) -> Placement:
    if values["version"] != _VERSION:
        raise PlacementError(f"version must be {_VERSION}, got {values['version']!r}")
    pools = tuple(_whole(values["pools"][name]) for name in POOLS)
    ranks_LG = []
    for layer in values["layers"]:
        ranks = []
        for rank in layer["ranks"]:
            experts = []
            for pool, first in zip(POOLS, (0, pools[0]), strict=True):
                for expert in map(_whole, rank[pool]):
                    if not 0 <= expert < pools[POOLS.index(pool)]:
                        raise PlacementError(
                            f"layer {layer['layer']}: pool {pool} has {pools[POOLS.index(pool)]} experts, "
                            f"got expert {expert}"
                        )
                    experts.append(first + expert)
            ranks.append(experts)
        ranks_LG.append(ranks)
    layers = [_whole(layer["layer"]) for layer in values["layers"]]
    return place(layers, (pools[0], pools[1]), ranks_LG, _whole(values["slots_per_rank"]))


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 20:
        raise PlacementError(f"must be a whole number from 0, got {value!r}")
    return value


def _count(slots_LGK: Slots, num_experts: int) -> npt.NDArray[np.int32]:
    """[layers, ranks, experts]: slots of a rank that hold an expert."""
    num_layers, num_ranks, _ = slots_LGK.shape
    count = np.zeros((num_layers, num_ranks, num_experts + 1), np.int32)
    layer, rank = np.indices(slots_LGK.shape)[:2]
    # EMPTY counts in the last column, which is cut off
    np.add.at(count, (layer.ravel(), rank.ravel(), slots_LGK.ravel()), 1)
    return count[:, :, :num_experts]
