"""Which backend serves on a device: the one asked for, or the best there is."""

import functools
import logging

from vlmoe_kernels import BACKENDS

_log = logging.getLogger(__name__)


def choose_backend(name: str, device: str) -> str:
    """The name of a backend; `auto` on CPU is `cpu_native` where it can be built, and `cpu` elsewhere.

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
    if name != "auto":
        return name
    if device != "cpu":
        # plain torch, until a backend of kernels for GPUs is chosen here
        return "eager"
    return "cpu" if why_not_native() else "cpu_native"


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
