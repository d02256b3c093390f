"""Experts of mixtures in a file under a budget of memory, and what the next mixture's router says ahead of its turn.

    load: checkpoint -> one expert -> packed into its place in the file, a pool at a time
    run:  block i has a mixture -> the router of the next mixture, asked about the tokens as they are now -> read ahead

Whole layers are packed as ever but for where the matrices lie, so answers have the bits of a model without a budget.
"""

# T = tokens, D = dim, L = mixtures in the order in which they run, X = routed experts of one of them

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from vlmoe_kernels import Pool, backend
from vlmoe_kernels.joined import join
from vlmoe_kernels.native.memory import Memory
from vlmoe_kernels.offload.storage import ExpertStorage, offloaded
from vlmoe_kernels.ops import GroupedOp, PlacingBackend
from vlmoe_model.checkpoint.directory import CheckpointDir
from vlmoe_model.checkpoint.one_expert import read_expert
from vlmoe_model.encoder import Block
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import POOLS, Packed

# in the order of their groups; VL is dense
_ROUTED = POOLS[:-1]


class Offloading:
    """Of one checkpoint. modules: what is not to be loaded with the rest."""

    def __init__(
        self, directory: CheckpointDir, backend_name: str, dtype: torch.dtype, budget_bytes: int
    ) -> None:
        """budget_bytes: for the experts of all mixtures.

        Raises:
            ValueError: nothing to offload, kernels that cannot, a budget below one block's experts, no room on disk.
        """
        config = directory.config
        kernels = backend(backend_name)
        if not config.moe_blocks:
            raise ValueError("there are no experts to offload: the checkpoint has no mixture blocks")
        if not isinstance(kernels, PlacingBackend):
            raise ValueError(
                f"experts are offloaded with the C++ kernels only, and {backend_name} was chosen"
            )
        self._directory = directory
        self._kernels = kernels
        self._dtype = dtype
        self._blocks = sorted(config.moe_blocks)
        self._num_experts = config.num_experts
        self.storage = ExpertStorage(
            len(self._blocks),
            len(_ROUTED) * config.num_experts,
            kernels.placed_bytes(dtype, config.dim, config.ffn_dim),
            budget_bytes,
        )
        self.modules = [
            f"encoder.blocks.{block}.ffn.pools.{name}" for block in self._blocks for name in _ROUTED
        ]

    def attach(self, network: VLMoE) -> None:
        """Take the experts of a network over; before its weights are loaded."""
        blocks = [block for block in network.encoder.blocks if isinstance(block, Block)]
        for layer, index in enumerate(self._blocks):
            ffn = blocks[index].ffn
            ffn.offload_experts(partial(self._pack, layer, ffn.eps))
        first = self._blocks[0]
        if first > 0:
            # the first mixture is foreseen where nothing else has to be read
            blocks[0].foresee = partial(self._foresee, blocks[first], 0, True)
        for layer, (index, following) in enumerate(pairwise(self._blocks), start=1):
            blocks[index].foresee = partial(self._foresee, blocks[following], layer, False)

    def _pack(self, layer: int, eps: float, dense: Sequence[Pool]) -> GroupedOp:
        ops: list[GroupedOp] = []
        for place, name in enumerate(_ROUTED):
            experts = range(place * self._num_experts, (place + 1) * self._num_experts)
            for number, expert in enumerate(experts):
                pool, _ = read_expert(self._directory, self._blocks[layer], name, number)
                cast = Pool._make(None if t is None else t.to(self._dtype) for t in pool)
                ops.append(self._kernels.placed_ffn(cast, eps, self.storage.place(layer, expert)))
            self.storage.written(layer, experts[0], experts[-1])
        num_routed = len(ops)
        ops += [self._kernels.placed_ffn(pool, eps, Memory) for pool in dense]
        return offloaded(join(ops), self.storage, layer, num_routed)

    def _foresee(self, block: Block, layer: int, at_once: bool, x_TD: Tensor, packed: Packed) -> None:
        """Ask that block's routers now, with what the residual stream is short of by then."""
        ffn = block.ffn
        tokens = packed.fused if ffn.is_fused else packed.modality
        normed_TD = block.norm2.add(x_TD, None, tokens)[1]
        expected: list[int] = []
        first = 0
        for name, size, rows_P in zip(ffn.pools, ffn.sizes, tokens.rows, strict=True):
            if name in ffn.routers and len(rows_P):
                chosen_TK = ffn.routers[name](normed_TD.index_select(0, rows_P), packed.mode).experts_TK
                expected += [first + expert for expert in chosen_TK.unique().tolist() if expert >= 0]
            first += size
        self.storage.expect(layer, expected, at_once=at_once)
