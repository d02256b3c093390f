"""What a step costs: the constants of a device and its links, and the ranks they join.

All modelled times follow from these numbers and a trace. They are measured (`measured.py`), or taken from what was
measured on another machine (`machines.py`). The defaults describe VL-MoE base (dim 768, hidden 3072, bf16) on a GPU of
the H100 class by its data sheet; they were not measured, and serve to compare policies with each other.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


class CostsError(ValueError):
    """A file of constants that cannot be used; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Times in microseconds, sizes in bytes.

    token_us: one token through one expert. expert_us: reading one expert's weights, paid on a rank for each expert
    that has at least one token there.
    near_us, far_us: moving one token one way between two ranks of a node, and between nodes.
    start_us: beginning one all-to-all; a layer has two.
    dense_token_us, dense_layer_us: everything else (attention, norms, a dense block beside each mixture, and what is
    the same for every mixture), per token at home and per MoE layer.
    token_bytes: one token on the wire, one way. expert_bytes: the weights of one expert. shared_bytes: all other
    weights. move_bytes_per_us: speed at which experts are moved between steps.
    ranks_per_node: ranks joined by the near link.
    origin: where the constants come from, in one line for people.
    """

    token_us: float = 0.024
    expert_us: float = 1.2
    near_us: float = 0.0048
    far_us: float = 0.024
    start_us: float = 0.0
    dense_token_us: float = 0.048
    dense_layer_us: float = 2.4
    token_bytes: int = 1536
    expert_bytes: int = 9_444_864
    shared_bytes: int = 350_000_000
    move_bytes_per_us: float = 25_000.0
    ranks_per_node: int = 4
    origin: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.origin, str):
            raise CostsError(f"origin must be a text, got {self.origin!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "origin" and (
                not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf")
            ):
                raise CostsError(f"{field.name} must be a number from 0, got {value!r}")
        for name in ("token_us", "move_bytes_per_us", "ranks_per_node"):
            if getattr(self, name) <= 0:
                raise CostsError(f"{name} must be positive, got {getattr(self, name)!r}")
        for name in ("token_bytes", "expert_bytes", "shared_bytes", "ranks_per_node"):
            if not isinstance(getattr(self, name), int):
                raise CostsError(f"{name} must be a whole number, got {getattr(self, name)!r}")

    @property
    def stream_tokens(self) -> int:
        """Reading an expert's weights, in tokens of compute: what the dispatcher counts in."""
        return round(self.expert_us / self.token_us)

    def nodes(self, num_ranks: int) -> npt.NDArray[np.int32]:
        """[ranks]: the node of each rank; ranks of a node are neighbours."""
        return (np.arange(num_ranks) // self.ranks_per_node).astype(np.int32)

    def link_us(self, num_ranks: int) -> npt.NDArray[np.float64]:
        """[from, to]: moving one token one way; 0 on the diagonal."""
        node_G = self.nodes(num_ranks)
        cost_GG = np.where(node_G[:, None] == node_G[None, :], self.near_us, self.far_us)
        np.fill_diagonal(cost_GG, 0.0)
        return cost_GG

    def to_json(self) -> str:
        """As a file holds it."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_costs(path: Path) -> Costs:
    """Constants from a JSON object; what it leaves out keeps its default.

    Raises:
        CostsError: not readable, not an object, an unknown name, or a value out of range.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CostsError(f"{path}: cannot be read as JSON: {error}") from None
    try:
        return parse_costs(values)
    except CostsError as error:
        raise CostsError(f"{path}: {error}") from None


def parse_costs(values: object) -> Costs:
    """From what a file holds.

    Raises:
        CostsError: not an object, an unknown name, or a value out of range.
    """
    if not isinstance(values, dict):
        raise CostsError("must hold a JSON object of constants")
    known = {field.name for field in dataclasses.fields(Costs)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CostsError(f"unknown constant {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return Costs(**values)
