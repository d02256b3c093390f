"""The rates that this machine reaches: the best of several large products, and of several ways to read.

They take their turns between what is measured, so that they are of the same minutes.
"""

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from vlmoe_kernels import backend
from vlmoe_kernels.native.memory import Memory

# as large as what a model's layers multiply, and far larger than any cache
ROWS, WIDTH, OUTPUTS = 1024, 1024, 2048
READ_BYTES = 1 << 28

Op = Callable[[], object]


class Limits:
    """ops: what to time, by name; then the rates follow from the best times of each."""

    def __init__(self, dtype: torch.dtype, backends: set[str]) -> None:
        x, weight = torch.randn(ROWS, WIDTH).to(dtype), torch.randn(OUTPUTS, WIDTH).to(dtype)
        products = {name: backend(name).linear(weight, None) for name in sorted(backends)}
        self._products: dict[str, Op] = {name: _call(op, x) for name, op in products.items()}
        stream = Stream()
        self._reads: dict[str, Op] = {"sum": stream.sum, "max": stream.max}

    @property
    def ops(self) -> dict[str, Op]:
        """What to time."""
        return {**self._products, **self._reads}

    def rates(self, best_s: dict[str, float]) -> tuple[float, float]:
        """Multiply-adds and bytes a second, from the best time of each."""
        product_s = min(best_s[name] for name in self._products)
        return ROWS * WIDTH * OUTPUTS / product_s, READ_BYTES / min(best_s[name] for name in self._reads)


class Stream:
    """Floats to read, on huge pages where the system has them: what reading costs without looking up addresses."""

    def __init__(self) -> None:
        # kept, because the tensor does not own it
        self._memory = Memory(READ_BYTES)
        start = (ctypes.c_char * READ_BYTES).from_address(self._memory.address)
        self._values = torch.frombuffer(start, dtype=torch.float32).fill_(1.0)

    def sum(self) -> Tensor:
        """Of all of them."""
        return self._values.sum()

    def max(self) -> Tensor:
        """The largest."""
        return self._values.max()


def _call(op: Callable[[Tensor], Tensor], x: Tensor) -> Op:
    return lambda: op(x)
