"""Tensor operations of a modality- and expert-routed Transformer. Knows tensors, not models.

`BACKENDS` is the table: a new backend is one module with the functions of `ops.Backend` and one line here.
"""

import importlib
from collections.abc import Mapping
from typing import cast

from vlmoe_kernels.ops import Backend, LearningBackend, Pool, Run
from vlmoe_kernels.plan import RoutePlan, make_plan

BACKENDS: Mapping[str, str] = {
    "reference": "vlmoe_kernels.reference",
    "eager": "vlmoe_kernels.eager",
    "cpu": "vlmoe_kernels.cpu",
    "cpu_native": "vlmoe_kernels.native",
    "triton": "vlmoe_kernels.triton",
    "vllm": "vlmoe_kernels.vllm_experts",
}

__all__ = ["BACKENDS", "Backend", "LearningBackend", "Pool", "RoutePlan", "Run", "backend", "make_plan"]


def backend(name: str) -> Backend:
    """The backend of that name, imported on first use.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return cast(Backend, importlib.import_module(BACKENDS[name]))
