"""What a step costs: the constants of a device and its links, and the ranks they join.

All modelled times follow from these numbers and a trace. The defaults describe VL-MoE base (dim 768, hidden 3072,
bf16) on a GPU of the H100 class by its data sheet; they were not measured. `costs_on` has them for other sizes, and for
CPUs, where they were. Measure your own device and hand the file to `vlmoe plan --costs`.
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
    dense_token_us, dense_layer_us: everything else of a block (attention, norms, its dense twin), per token at home
    and per MoE layer.
    token_bytes: one token on the wire, one way. expert_bytes: the weights of one expert. shared_bytes: all other
    weights. move_bytes_per_us: speed at which experts are moved between steps.
    ranks_per_node: ranks joined by the near link.
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of a model. weight_bytes: of one weight of an expert. shared_parameters: of all that is no routed expert."""

    dim: int
    ffn_dim: int
    weight_bytes: int
    shared_parameters: int

    @property
    def expert_bytes(self) -> int:
        """Weights of one expert."""
        return (2 * self.dim * self.ffn_dim + self.dim + self.ffn_dim) * self.weight_bytes

    @property
    def dense_flops(self) -> int:
        """Of a token beside each mixture, every other block being one: two attentions' projections, a dense layer."""
        return 16 * self.dim**2 + 4 * self.dim * self.ffn_dim


_BASE = Sizes(dim=768, ffn_dim=3072, weight_bytes=2, shared_parameters=175_000_000)
DEVICES = ("cpu", "cuda")


def costs_on(device: str, sizes: Sizes | None, ranks_per_node: int | None = None) -> tuple[Costs, str]:
    """Constants of ranks on a kind of device, for a model, and one line that says where they come from.

    Args:
        device: cpu or cuda.
        sizes: of the model; None for those of VL-MoE base.
        ranks_per_node: ranks of one host; None for all of them on CPU, and for 4 on GPUs.
    """
    known = sizes or _BASE
    experts = f"experts of {known.dim} x {known.ffn_dim}, {8 * known.weight_bytes} bits a weight"
    if sizes is None:
        experts += " (VL-MoE base: the trace does not say)"
    if device == "cpu":
        costs = cpu_costs(known.dim, known.ffn_dim, known.weight_bytes, ranks_per_node or 1 << 16)
        costs = dataclasses.replace(
            costs,
            dense_token_us=known.dense_flops / _CPU_FLOPS_PER_US,
            dense_layer_us=0.0,
            shared_bytes=known.shared_parameters * 2,
        )
        return costs, f"CPU ranks of one thread, as measured on an AMD EPYC with AVX-512, {experts}"
    return gpu_costs(known, ranks_per_node), f"GPUs of the H100 class by the data sheet, {experts}"


def gpu_costs(sizes: Sizes, ranks_per_node: int | None = None) -> Costs:
    """The defaults, in proportion to the sizes of a model; bf16 outside of experts."""
    base = Costs()
    compute = sizes.dim * sizes.ffn_dim / (_BASE.dim * _BASE.ffn_dim)
    dense = sizes.dense_flops / _BASE.dense_flops
    wire = sizes.dim / _BASE.dim
    return Costs(
        token_us=base.token_us * compute,
        expert_us=base.expert_us * sizes.expert_bytes / _BASE.expert_bytes,
        near_us=base.near_us * wire,
        far_us=base.far_us * wire,
        start_us=base.start_us,
        dense_token_us=base.dense_token_us * dense,
        dense_layer_us=base.dense_layer_us * dense,
        token_bytes=sizes.dim * 2,
        expert_bytes=sizes.expert_bytes,
        shared_bytes=sizes.shared_parameters * 2,
        move_bytes_per_us=base.move_bytes_per_us,
        ranks_per_node=ranks_per_node or base.ranks_per_node,
    )


# One thread of an AMD EPYC with AVX-512, bf16, measured by serve/bench/placement_costs.py. Other processors differ;
# what the split over copies depends on is the ratio of the first two.
_CPU_FLOPS_PER_US = 200_000.0
_CPU_BYTES_PER_US = 28_000.0
_CPU_LINK_BYTES_PER_US = 2_700.0
_CPU_START_US = 40.0
# between hosts: 10 Gbit/s Ethernet by its name, not measured
_CPU_FAR_BYTES_PER_US = 1_250.0
_CPU_MOVE_BYTES_PER_US = 1_000.0


def cpu_costs(dim: int, ffn_dim: int, weight_bytes: int, ranks_per_node: int = 1 << 16) -> Costs:
    """Estimates for ranks of one thread, those of a node sharing memory; only what a layer's placement decides.

    Args:
        dim: of a token.
        ffn_dim: hidden width of an expert.
        weight_bytes: of one of its weights; 2 for bf16, which runs twice as fast as fp32.
        ranks_per_node: ranks of one host.
    """
    expert_bytes = (2 * dim * ffn_dim + dim + ffn_dim) * weight_bytes
    token_bytes = dim * weight_bytes
    return Costs(
        token_us=4 * dim * ffn_dim / _CPU_FLOPS_PER_US * weight_bytes / 2,
        expert_us=expert_bytes / _CPU_BYTES_PER_US,
        near_us=token_bytes / _CPU_LINK_BYTES_PER_US,
        far_us=token_bytes / _CPU_FAR_BYTES_PER_US,
        start_us=_CPU_START_US,
        token_bytes=token_bytes,
        expert_bytes=expert_bytes,
        move_bytes_per_us=_CPU_MOVE_BYTES_PER_US,
        ranks_per_node=ranks_per_node,
    )


def read_costs(path: Path) -> Costs:
    """Constants from a JSON object; what it leaves out keeps its default.

    Raises:
        CostsError: not readable, not an object, an unknown name, or a value out of range.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CostsError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CostsError(f"{path}: must hold a JSON object of constants")
    known = {field.name for field in dataclasses.fields(Costs)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CostsError(f"{path}: unknown constant {unknown[0]!r}; known are {', '.join(sorted(known))}")
    try:
        return Costs(**values)
    except CostsError as error:
        raise CostsError(f"{path}: {error}") from None
