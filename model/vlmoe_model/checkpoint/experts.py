"""Which tensors hold one expert a row, by their names."""

import re

from vlmoe_model.config import ModelConfig

_EXPERT = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.ffn\.pools\.[VT]\.")


def is_expert(name: str, config: ModelConfig) -> bool:
    """Whether dim 0 of this tensor counts experts, which ranks may share out."""
    match = _EXPERT.match(name)
    return match is not None and int(match.group(1)) in config.moe_blocks
