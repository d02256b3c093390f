"""Which tensors hold one expert a row, by their names."""

import re

from vlmoe_model.config import ModelConfig

_EXPERT = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.ffn\.pools\.([VT])\.")


_MATRIX = re.compile(r"encoder\.blocks\.(\d+)\.ffn\.pools\.\w+\.w[12]")


def is_int8(name: str, config: ModelConfig) -> bool:
    """Whether this tensor is stored as int8."""
    match = _MATRIX.fullmatch(name)
    return config.expert_weights == "int8" and match is not None and int(match.group(1)) in config.moe_blocks


def scale_of(name: str) -> str:
    """Name of the scales that belong to an int8 matrix: w1 and scale1, w2 and scale2."""
    return f"{name[:-2]}scale{name[-1]}"


def is_expert(name: str, config: ModelConfig) -> bool:
    """Whether dim 0 of this tensor counts experts, which ranks may share out."""
    return pool_of(name, config) is not None


def pool_of(name: str, config: ModelConfig) -> tuple[int, str] | None:
    """Block and pool ("V" or "T") of the mixture whose experts dim 0 of this tensor counts; None for any other."""
    match = _EXPERT.match(name)
    if match is None or int(match.group(1)) not in config.moe_blocks:
        return None
    return int(match.group(1)), match.group(2)
