"""A network's tensors: those of a checkpoint, or random ones.

Random ones of one name and shape are the same in all blocks, so that a network of two billion parameters fits into
memory twice: once as torch has it, shared, and once as our kernels pack it, not shared. What a block reads is far
larger than any cache, so its neighbours' reading it too makes nothing faster.
"""

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.config import ModelConfig
from vlmoe_model.network import VLMoE

_BLOCK = re.compile(r"^encoder\.blocks\.\d+\.")
_SCALE = 0.02


class Weights:
    """Tensors by name, made at first use. given: those that are not random."""

    def __init__(self, dtype: torch.dtype, given: Mapping[str, Tensor] | None = None) -> None:
        self._dtype = dtype
        self._given = {} if given is None else given
        self._made: dict[tuple[str, torch.Size], Tensor] = {}

    def fill(self, network: VLMoE) -> None:
        """Give a network that was built without memory its tensors."""
        state = {name: self._tensor(name, meta.shape) for name, meta in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)

    def _tensor(self, name: str, shape: torch.Size) -> Tensor:
        given = self._given.get(name)
        if given is not None and given.shape != shape:
            # of the dense twin, which has one layer where the checkpoint has experts
            given = None
        key = (_BLOCK.sub("", name) if given is None else name), shape
        if key not in self._made:
            tensor = self._random(name, shape) if given is None else given
            # matrices in the dtype that they are used in; what is used in float32 stays so
            is_matrix = name.startswith("encoder.") and len(shape) == 3
            self._made[key] = tensor.to(self._dtype if is_matrix else torch.float32)
        return self._made[key]

    def _random(self, name: str, shape: torch.Size) -> Tensor:
        random = torch.Generator().manual_seed(len(self._made))
        tensor = torch.randn(shape, generator=random).mul_(_SCALE)
        is_scale = name.endswith("mid_weight") or ("norm" in name and name.endswith("weight"))
        return tensor + 1.0 if is_scale else tensor


def checkpoint(path: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration, without heads, and tensors of a checkpoint directory, or of `demo`.

    Raises:
        CheckpointError: a file is missing, broken, foreign or of the wrong shape.
    """
    directory = open_directory(path)
    with torch.device("meta"):
        network = VLMoE(directory.config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return dataclasses.replace(directory.config, heads=()), load_state(directory, expected=expected)
