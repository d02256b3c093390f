"""Where a network runs and in what precision, where nobody said: by the machine, and by how weights are stored."""

import platform
from typing import Literal

import torch

from vlmoe_model.config import ModelConfig

Dtype = Literal["auto", "fp32", "bf16", "int8"]

INT8 = "int8"

# of one weight of an expert, by dtype
EXPERT_BYTES = {"fp32": 4, "bf16": 2, INT8: 1}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_device(device: str) -> str:
    """`auto` is the GPU where torch sees one.

    Raises:
        ValueError: an unknown device, or a GPU asked for and not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be one of auto, cpu, cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def choose_dtype_for(config: ModelConfig, dtype: str, device: str) -> str:
    """`choose_dtype` for a model: where its experts are stored in int8, that is what `auto` means.

    Raises:
        ValueError: as `choose_dtype`, or what the model does not have.
    """
    if config.expert_weights != INT8:
        chosen = choose_dtype(dtype, device)
        if chosen == INT8 and not config.moe_blocks:
            raise ValueError("the checkpoint has no mixture blocks, so there are no experts for int8")
        return chosen
    if dtype not in ("auto", INT8):
        raise ValueError(
            f"the checkpoint's experts are stored in int8: dtype must be auto or int8, got {dtype!r}"
        )
    return choose_dtype(INT8, device)


def choose_dtype(dtype: str, device: str) -> str:
    """`auto` is bf16 on GPUs and on processors with native bf16 products, fp32 elsewhere.

    Raises:
        ValueError: an unknown dtype, or one that the device does not have.
    """
    if dtype not in ("auto", *DTYPES, INT8):
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, {INT8}, got {dtype!r}")
    if dtype == INT8 and device != "cpu":
        raise ValueError(f"int8 experts run on CPU only, not on {device}")
    if dtype != "auto":
        return dtype
    if device == "cuda":
        return "bf16"
    return "bf16" if has_native_bf16() else "fp32"


def has_native_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware (AVX512_BF16)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    supported: bool = torch.cpu._is_avx512_bf16_supported()
    return supported
