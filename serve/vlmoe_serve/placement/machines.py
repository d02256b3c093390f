"""What was measured on two machines, and what follows from it for a model of any sizes, where nothing was measured.

    Sizes, kind of device -> costs_on -> Costs

Times of products are in proportion to their multiplications, times of weights and rows to their bytes.
"""

import dataclasses
from dataclasses import dataclass

from vlmoe_serve.placement.costs import Costs

DEVICES = ("cpu", "cuda")


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

    def __str__(self) -> str:
        """For people."""
        return f"experts of {self.dim} x {self.ffn_dim}, {8 * self.weight_bytes} bits a weight"


BASE = Sizes(dim=768, ffn_dim=3072, weight_bytes=2, shared_parameters=175_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One that was measured, all per microsecond but for what a layer or an all-to-all takes at least.

    name: with the date. flops: of an expert's products in bf16. dense_flops: of everything else. weight_bytes: of an
    expert's weights, read. near_bytes, far_bytes: between two ranks of a node, and of two nodes. move_bytes: of
    weights, from where they are kept to where they compute.
    """

    name: str
    flops: float
    dense_flops: float
    weight_bytes: float
    near_bytes: float
    far_bytes: float
    move_bytes: float
    start_us: float
    dense_layer_us: float
    ranks_per_node: int

    def costs(self, sizes: Sizes, ranks_per_node: int | None = None) -> Costs:
        """For a model."""
        experts, rest = _TIMES_BF16[sizes.weight_bytes]
        # rows travel in bf16 unless all is fp32
        token_bytes = sizes.dim * max(2, sizes.weight_bytes)
        return Costs(
            token_us=4 * sizes.dim * sizes.ffn_dim / self.flops * experts,
            expert_us=sizes.expert_bytes / self.weight_bytes,
            near_us=token_bytes / self.near_bytes,
            far_us=token_bytes / self.far_bytes,
            start_us=self.start_us,
            dense_token_us=sizes.dense_flops / self.dense_flops * rest,
            dense_layer_us=self.dense_layer_us,
            token_bytes=token_bytes,
            expert_bytes=sizes.expert_bytes,
            shared_bytes=sizes.shared_parameters * max(2, sizes.weight_bytes),
            move_bytes_per_us=self.move_bytes,
            ranks_per_node=ranks_per_node or self.ranks_per_node,
        )


# by bytes of an expert's weight: how long its products, and those of everything else, take over bf16
_TIMES_BF16 = {1: (0.6, 1.0), 2: (1.0, 1.0), 4: (2.0, 2.0)}

# As `vlmoe plan --measure` found them for BASE in bf16 on 22 November 2026, but for what is known by its name alone:
# links between hosts (10 Gbit/s Ethernet; on GPUs a fifth of NVLink), and of the GPU, of which there was one, NVLink
# and the speed of its memory, which the start of the kernels hid.
CPU = Machine(
    name="one thread of an AMD EPYC with AVX-512",
    flops=233_000.0,
    dense_flops=180_000.0,
    weight_bytes=28_900.0,
    near_bytes=3_900.0,
    far_bytes=1_250.0,
    move_bytes=4_000.0,
    start_us=70.0,
    dense_layer_us=0.0,
    # all ranks of a host share its memory
    ranks_per_node=1 << 16,
)
GPU = Machine(
    name="an NVIDIA H100, its links and memory by the data sheet",
    flops=370_000_000.0,
    dense_flops=186_000_000.0,
    weight_bytes=3_350_000.0,
    near_bytes=320_000.0,
    far_bytes=64_000.0,
    move_bytes=10_000.0,
    start_us=110.0,
    dense_layer_us=1250.0,
    ranks_per_node=4,
)
_OF_DEVICE = {"cpu": CPU, "cuda": GPU}


def costs_on(device: str, sizes: Sizes | None, ranks_per_node: int | None = None) -> Costs:
    """Constants of ranks on a kind of device, for a model.

    Args:
        device: cpu or cuda.
        sizes: of the model; None for those of VL-MoE base.
        ranks_per_node: ranks of one host; None for all of them on CPU, and for 4 on GPUs.
    """
    machine = _OF_DEVICE[device]
    known = f"{sizes}" if sizes else f"{BASE} (VL-MoE base: the trace does not say)"
    costs = machine.costs(sizes or BASE, ranks_per_node)
    return dataclasses.replace(costs, origin=f"{machine.name}, {known}")
