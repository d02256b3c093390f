"""Poisoned memory, random layers and plans for all tests of the kernels."""

# letters: see ops.py; K = choices per token

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import Pool, RoutePlan, make_plan

ALLOCATORS = ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty"))


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated and not written is NaN: an operation that forgets a row fails at once."""
    for owner, name in ALLOCATORS:
        plain = getattr(owner, name)

        def poisoned(*args: Any, plain: Callable[..., Tensor] = plain, **kwargs: Any) -> Tensor:
            empty = plain(*args, **kwargs)
            return empty.fill_(torch.nan) if empty.is_floating_point() else empty.fill_(-(2**30))

        monkeypatch.setattr(owner, name, poisoned)


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The test runs with one thread, then with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Random:
    """Random tensors of one dtype from one seed."""

    dtype: torch.dtype
    generator: torch.Generator

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal numbers."""
        return (torch.randn(shape, generator=self.generator) * scale).to(self.dtype)

    def pool(self, num_experts: int, dim: int, hidden: int, *, mid_norm: bool = False) -> Pool:
        """Weights of the size that keeps outputs near one."""
        mid = (1 + self(num_experts, hidden, scale=0.1), self(num_experts, hidden, scale=0.1))
        return Pool(
            self(num_experts, hidden, dim, scale=dim**-0.5),
            self(num_experts, hidden, scale=0.1),
            self(num_experts, dim, hidden, scale=hidden**-0.5),
            self(num_experts, dim, scale=0.1),
            *(mid if mid_norm else (None, None)),
        )

    def groups(self, num_tokens: int, num_groups: int, num_choices: int, drop: float = 0.0) -> Tensor:
        """Different groups per token, a share of the choices dropped."""
        scores_TG = torch.rand(num_tokens, num_groups, generator=self.generator)
        groups_TK = scores_TG.argsort(dim=1)[:, :num_choices]
        dropped_TK = torch.rand(num_tokens, num_choices, generator=self.generator) < drop
        return groups_TK.masked_fill(dropped_TK, -1)

    def plan(
        self, num_tokens: int, num_groups: int, num_choices: int, *, gated: bool = True, drop: float = 0.0
    ) -> RoutePlan:
        """A plan with random groups and gates."""
        gates_TK = torch.rand(num_tokens, num_choices, generator=self.generator)
        groups_TK = self.groups(num_tokens, num_groups, num_choices, drop)
        return make_plan(groups_TK, gates_TK if gated else None, num_groups)


@pytest.fixture
def fp32() -> Random:
    return Random(torch.float32, torch.Generator().manual_seed(0))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def random(request: pytest.FixtureRequest) -> Random:
    """Random tensors in each dtype that is served on CPU."""
    return Random(request.param, torch.Generator().manual_seed(0))
