"""The contract of inference on CPU: a row's bits depend on the row, not on its number or on what else is there."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vlmoe_kernels import Pool, Run, cpu, make_plan

# widths that are and are not multiples of a vector; and the demo's and a base model's
WIDTHS = ((12, 20), (33, 65), (160, 320), (768, 192))
NUM_ROWS = (1, 2, 3, 7, 15, 16, 17, 63)


@pytest.fixture(params=["packed", "plain"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(cpu, "has_packing", lambda dtype: False)
    return str(request.param)


def assert_invariant(op: Callable[[Tensor], Tensor], x_TD: Tensor) -> None:
    """Any number of rows from anywhere come out as they do among all rows."""
    whole = op(x_TD)
    for num_rows in NUM_ROWS:
        for first in (0, 1, len(x_TD) - num_rows):
            rows = slice(first, first + num_rows)
            assert torch.equal(op(x_TD[rows].clone()), whole[rows]), f"{num_rows} rows from {first}"


def test_packing_is_there_for_fp32_and_never_for_fp64(layout: str) -> None:
    assert cpu.has_packing(torch.float32) == (layout == "packed")
    assert not cpu.has_packing(torch.float64)


@pytest.mark.parametrize(("in_dim", "out_dim"), WIDTHS)
def test_linear_is_batch_invariant(random: Any, layout: str, threads: int, in_dim: int, out_dim: int) -> None:
    op = cpu.linear(random(out_dim, in_dim, scale=in_dim**-0.5), random(out_dim))
    assert_invariant(op, random(100, in_dim))


@pytest.mark.parametrize(("dim", "hidden"), WIDTHS)
@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
def test_experts_are_batch_invariant(
    random: Any, threads: int, dim: int, hidden: int, mid_norm: bool
) -> None:
    op = cpu.grouped_ffn([random.pool(1, dim, hidden, mid_norm=mid_norm)], 1e-5)
    gate = torch.full((1, 1), 0.3)

    def run(x_TD: Tensor) -> Tensor:
        zeros = torch.zeros(len(x_TD), 1, dtype=torch.int64)
        return op(x_TD, make_plan(zeros, gate.expand(len(x_TD), 1), 1))

    assert_invariant(run, random(100, dim))


@pytest.mark.parametrize("num_choices", [1, 2])
def test_routed_tokens_are_batch_invariant(random: Any, layout: str, threads: int, num_choices: int) -> None:
    """Tokens alone, in groups, and in another order, on experts that hold from none to many rows."""
    op = cpu.grouped_ffn([random.pool(5, 32, 48), random.pool(1, 32, 48)], 1e-5)
    x_TD, groups_TK = random(63, 32), random.groups(63, 6, num_choices)
    groups_TK[:40, 0] = 5
    gates_TK = torch.rand(63, num_choices)

    def run(tokens: Tensor) -> Tensor:
        return op(x_TD[tokens], make_plan(groups_TK[tokens], gates_TK[tokens], 6))

    whole = run(torch.arange(63))
    shuffled = torch.randperm(63, generator=random.generator)
    assert torch.equal(run(shuffled), whole[shuffled])
    for tokens in (torch.tensor([0]), torch.tensor([50]), torch.arange(39, 42), torch.arange(0, 63, 4)):
        assert torch.equal(run(tokens), whole[tokens])


@pytest.mark.parametrize(("heads", "width"), [(1, 64), (2, 8), (3, 17), (5, 32), (12, 64)])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_attention_is_batch_invariant(
    random: Any, threads: int, heads: int, width: int, biased: bool
) -> None:
    """A sequence alone, among its equals, and behind sequences of another length."""
    for length in (1, 2, 3, 5, 8, 11, 17, 40):
        qkv = random(4 * length + 7, 3, heads, width)
        biases = [random(heads, 7, 7), random(heads, length, length)] if biased else None
        runs = [Run(1, 7), Run(4, length)]
        whole = cpu.attention(*qkv.unbind(1), runs, biases)[7:]
        for num_sequences in (1, 2, 3):
            for first in (0, 1):
                rows = slice(first * length, (first + num_sequences) * length)
                part = cpu.attention(
                    *qkv[7:][rows].clone().unbind(1), [Run(num_sequences, length)], biases and biases[1:]
                )
                assert torch.equal(part, whole[rows]), f"{num_sequences} sequences of {length} from {first}"


def test_weights_are_not_kept_beside_their_packed_copies() -> None:
    arrays = [np.ones(shape, np.float32) for shape in ((2, 6, 4), (3, 4, 6))]
    alive = [weakref.ref(array) for array in arrays]
    up, down = (torch.from_numpy(array) for array in arrays)
    pool = Pool(up, torch.zeros(2, 6), down[:2], torch.zeros(2, 4))
    ops = [cpu.linear(up[0], None), cpu.grouped_linear(down, None), cpu.grouped_ffn([pool], 1e-5)]
    del arrays, up, down, pool
    gc.collect()
    assert [array() for array in alive] == [None, None]
    assert len(ops) == 3
