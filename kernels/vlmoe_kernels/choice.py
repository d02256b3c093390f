"""Which backend serves on a device: the one asked for, or the best there is."""

import functools
import importlib.util
import logging
import os

import torch

from vlmoe_kernels import BACKENDS, backend, eager
from vlmoe_kernels.ops import LearningBackend

_log = logging.getLogger(__name__)


def choose_backend(name: str, device: str) -> str:
    """The name of a backend; `auto` takes the kernels of this project where they can run.

    That is `cpu_native` on CPU, or else `cpu`; on a GPU `triton`, or else plain torch, `eager`.

    Args:
        name: `auto`, or one of `BACKENDS`.
        device: `cpu` or `cuda`.

    Raises:
        ValueError: there is none of that name, or it cannot be had here.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be one of auto, {', '.join(BACKENDS)}, got {name!r}")
    if name == "cpu_native" and (reason := why_not_native()):
        raise ValueError(f"backend cpu_native was asked for, but {reason}")
    if name == "triton" and (reason := why_not_triton()):
        raise ValueError(f"backend triton was asked for, but {reason}")
    if name == "vllm" and (reason := why_not_vllm()):
        raise ValueError(f"backend vllm was asked for, but {reason}")
    if name != "auto":
        return name
    if device != "cpu":
        return "eager" if why_not_triton() else "triton"
    return "cpu" if why_not_native() else "cpu_native"


def choose_learning_backend(name: str, device: str) -> LearningBackend:
    """The backend that trains; `auto` takes the kernels of this project where they can run, or else plain torch.

    Args:
        name: `auto`, or one of those backends that have gradients.
        device: `cpu` or `cuda`.

    Raises:
        ValueError: there is none of that name, it has no gradients, or it cannot be had here.
    """
    if name == "auto":
        name = choose_backend("auto", device)
        return eager if name == "cpu" else _learning(name)
    return _learning(choose_backend(name, device))


def _learning(name: str) -> LearningBackend:
    """The backend of that name; `ValueError` if it cannot train."""
    chosen = backend(name)
    if not isinstance(chosen, LearningBackend):
        raise ValueError(
            f"backend {name} has no gradients; eager has, and where they run cpu_native and triton"
        )
    return chosen


@functools.cache
def why_not_native() -> str:
    """Why the C++ kernels cannot be had here, or nothing; builds them, and says once if it cannot."""
    # imported here: only those who choose it need its parts
    from vlmoe_kernels.native.build import SWITCHED_OFF, Unavailable
    from vlmoe_kernels.native.library import library

    try:
        library()
    except Unavailable as reason:
        level = logging.INFO if str(reason) == SWITCHED_OFF else logging.WARNING
        _log.log(level, "the CPU kernels in C++ are not used: %s; oneDNN's run instead", reason)
        return str(reason)
    return ""


@functools.cache
def why_not_triton() -> str:
    """Why the GPU kernels cannot be had here, or nothing; says once if they cannot."""
    reason = ""
    if importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif not torch.cuda.is_available():
        # under the interpreter the kernels run on CPU tensors
        reason = "" if os.environ.get("TRITON_INTERPRET") == "1" else "torch sees no GPU"
    elif torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        reason = "this GPU is older than compute capability 8.0"
    else:
        reason = _driver_fault()
    if reason:
        _log.warning("the GPU kernels in Triton are not used: %s; plain torch runs instead", reason)
    return reason


def _driver_fault() -> str:
    """What keeps Triton from launching anything, or nothing: it builds its way to the driver with a C compiler."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:
        return f"Triton cannot reach the GPU ({' '.join(str(error).split())})"
    return ""


def why_not_vllm() -> str:
    """Why vLLM's fused MoE cannot be had here, or nothing."""
    if importlib.util.find_spec("vllm") is None:
        return 'vLLM is not installed: pip install "vlmoe[vllm]"'
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "torch sees no GPU"
    return ""
