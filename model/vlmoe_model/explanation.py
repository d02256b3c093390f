"""Where the routers sent one sequence's tokens, as a value and as the numbers that follow its output. Numpy only.

network -> LayerRoutes of every mixture block -> to_numbers -> ... process, rank ... -> from_numbers -> the same
"""

# L = mixture blocks, T = tokens of the sequence, K = choices per token

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import ModelConfig


@dataclass(frozen=True, slots=True, eq=False)
class LayerRoutes:
    """One mixture block.

    layer: the block, from 0. pools_T: uint8, index into V, T, VL. experts_TK: int64, logical within the pool, first
    choice first, -1 for a choice that found no room. gates_TK: float32, the factor of each choice's output. A token of
    the pool VL, which is dense, has the expert 0 and the gate 1.
    """

    layer: int
    pools_T: npt.NDArray[np.uint8]
    experts_TK: npt.NDArray[np.int64]
    gates_TK: npt.NDArray[np.float32]


def to_numbers(layers: Sequence[LayerRoutes]) -> npt.NDArray[np.float32]:
    """All layers as one row of float32, in which every index is exact."""
    parts = [
        np.concatenate([one.pools_T[:, None], one.experts_TK, one.gates_TK], axis=1).astype(np.float32)
        for one in layers
    ]
    return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0, np.float32)


def from_numbers(numbers: npt.NDArray[np.float32], config: ModelConfig, num_tokens: int) -> list[LayerRoutes]:
    """What `to_numbers` was given.

    Raises:
        ValueError: these are not the numbers of that many tokens.
    """
    blocks, width = sorted(config.moe_blocks), 1 + 2 * config.top_k
    if len(numbers) != len(blocks) * num_tokens * width:
        raise ValueError(
            f"{len(numbers)} numbers are no routes of {num_tokens} tokens in {len(blocks)} blocks"
        )
    columns = numbers.reshape(len(blocks), num_tokens, width)
    return [
        LayerRoutes(
            block,
            part[:, 0].astype(np.uint8),
            part[:, 1 : 1 + config.top_k].astype(np.int64),
            part[:, 1 + config.top_k :],
        )
        for block, part in zip(blocks, columns, strict=True)
    ]
