"""The contract of inference on CPU over random layers and batches: alone, in any batch, in any position, the same bits.

For the C++ kernels also: with any number of threads.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlmoe_kernels import Backend, Pool, Run, backend, make_plan
from vlmoe_kernels.choice import why_not_native

# letters: see ops.py; K = choices per token

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
EXAMPLES = settings(max_examples=25, deadline=None)

WIDTHS = st.integers(1, 200)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module", params=["cpu", "cpu_native"])
def chosen(request: pytest.FixtureRequest) -> Backend:
    if request.param == "cpu_native" and (reason := why_not_native()):
        pytest.skip(reason)
    return backend(request.param)


@pytest.fixture(scope="module", params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Random:
    """Normal numbers of one dtype from one seed."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def groups(self, num_tokens: int, num_groups: int, num_choices: int) -> Tensor:
        """Different groups per token, some of them none, the first group a favourite."""
        scores_TG = torch.rand(num_tokens, num_groups, generator=self.generator)
        scores_TG[:, 0] *= 0.5
        groups_TK = scores_TG.argsort(dim=1)[:, :num_choices]
        dropped_TK = torch.rand(num_tokens, num_choices, generator=self.generator) < 0.1
        return groups_TK.masked_fill(dropped_TK, -1)

    def batches(self, num_tokens: int) -> Iterator[Tensor]:
        """Tokens: each of a few alone; some of them; all in another order, one of them twice."""
        order = torch.randperm(num_tokens, generator=self.generator)
        yield from order[:3].split(1)
        yield order[: (num_tokens + 1) // 2]
        yield torch.cat([order, order[:1]])


def assert_invariant(random: Random, num_tokens: int, run: Callable[[Tensor], Tensor]) -> None:
    """run(tokens): the outputs of those tokens, batched."""
    whole = run(torch.arange(num_tokens))
    for tokens in random.batches(num_tokens):
        assert torch.equal(run(tokens), whole[tokens])


@DTYPES
@EXAMPLES
@given(seed=SEEDS, num_tokens=st.integers(1, 60), in_dim=WIDTHS, out_dim=WIDTHS)
@example(seed=0, num_tokens=40, in_dim=768, out_dim=2304)
def test_linear(
    chosen: Backend, threads: int, dtype: torch.dtype, seed: int, num_tokens: int, in_dim: int, out_dim: int
) -> None:
    random = Random(seed, dtype)
    x_TD = random(num_tokens, in_dim)
    op = chosen.linear(random(out_dim, in_dim), random(out_dim))
    assert_invariant(random, num_tokens, lambda tokens: op(x_TD[tokens]))


@DTYPES
@EXAMPLES
@given(seed=SEEDS, num_tokens=st.integers(1, 60), num_groups=st.integers(1, 4), in_dim=WIDTHS, out_dim=WIDTHS)
def test_grouped_linear(
    chosen: Backend,
    threads: int,
    dtype: torch.dtype,
    seed: int,
    num_tokens: int,
    num_groups: int,
    in_dim: int,
    out_dim: int,
) -> None:
    random = Random(seed, dtype)
    x_TD, groups_TK = random(num_tokens, in_dim), random.groups(num_tokens, num_groups, 1)
    op = chosen.grouped_linear(random(num_groups, out_dim, in_dim), None)
    assert_invariant(
        random, num_tokens, lambda tokens: op(x_TD[tokens], make_plan(groups_TK[tokens], None, num_groups))
    )


@DTYPES
@EXAMPLES
@given(
    seed=SEEDS,
    num_tokens=st.integers(1, 60),
    experts=st.tuples(st.integers(2, 5), st.integers(1, 2)),
    num_choices=st.integers(1, 2),
    dim=WIDTHS,
    hidden=WIDTHS,
    mid_norm=st.booleans(),
)
@example(seed=0, num_tokens=60, experts=(4, 1), num_choices=1, dim=768, hidden=192, mid_norm=False)
@example(seed=0, num_tokens=37, experts=(4, 1), num_choices=2, dim=160, hidden=320, mid_norm=True)
def test_grouped_ffn(
    chosen: Backend,
    threads: int,
    dtype: torch.dtype,
    seed: int,
    num_tokens: int,
    experts: tuple[int, int],
    num_choices: int,
    dim: int,
    hidden: int,
    mid_norm: bool,
) -> None:
    random = Random(seed, dtype)

    def pool(num_experts: int) -> Pool:
        mid = (random(num_experts, hidden), random(num_experts, hidden)) if mid_norm else (None, None)
        return Pool(
            random(num_experts, hidden, dim) * dim**-0.5,
            random(num_experts, hidden),
            random(num_experts, dim, hidden) * hidden**-0.5,
            random(num_experts, dim),
            *mid,
        )

    op = chosen.grouped_ffn([pool(num_experts) for num_experts in experts], 1e-6)
    x_TD, groups_TK = random(num_tokens, dim), random.groups(num_tokens, sum(experts), num_choices)
    gates_TK = torch.rand(num_tokens, num_choices, generator=random.generator)
    assert_invariant(
        random,
        num_tokens,
        lambda tokens: op(x_TD[tokens], make_plan(groups_TK[tokens], gates_TK[tokens], sum(experts))),
    )


@DTYPES
@EXAMPLES
@given(
    seed=SEEDS,
    runs=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 100)), min_size=1, max_size=4),
    heads=st.integers(1, 4),
    width=st.integers(1, 80),
    biased=st.booleans(),
)
@example(seed=0, runs=[(2, 197), (3, 7)], heads=12, width=64, biased=True)
def test_attention(
    chosen: Backend,
    threads: int,
    dtype: torch.dtype,
    seed: int,
    runs: list[tuple[int, int]],
    heads: int,
    width: int,
    biased: bool,
) -> None:
    """Each sequence alone, and the runs the other way round."""
    random = Random(seed, dtype)
    parts = [random(n * length, 3, heads, width) for n, length in runs]
    biases = [random(heads, length, length) for _, length in runs]

    def run(indices: list[int], alone: int | None = None) -> list[Tensor]:
        """The outputs of those runs, in one batch; of the sequence `alone` of each only."""
        chosen_parts = [
            parts[i] if alone is None else parts[i][alone * runs[i][1] : (alone + 1) * runs[i][1]]
            for i in indices
        ]
        counts = [
            Run(len(part) // runs[i][1], runs[i][1]) for i, part in zip(indices, chosen_parts, strict=True)
        ]
        q_THC, k_THC, v_THC = torch.cat(chosen_parts).unbind(1)
        bias = [biases[i] for i in indices] if biased else None
        y_THC = chosen.attention(q_THC, k_THC, v_THC, counts, bias)
        return list(y_THC.split([len(part) for part in chosen_parts]))

    everything = list(range(len(runs)))
    whole = run(everything)
    assert all(torch.equal(a, b) for a, b in zip(run(everything[::-1])[::-1], whole, strict=True))
    for index, (num_sequences, length) in enumerate(runs):
        for sequence in range(num_sequences):
            expected = whole[index][sequence * length : (sequence + 1) * length]
            assert torch.equal(run([index], alone=sequence)[0], expected)


@DTYPES
def test_the_cpp_kernels_have_the_same_bits_with_any_number_of_threads(dtype: torch.dtype) -> None:
    if reason := why_not_native():
        pytest.skip(reason)
    native, random = backend("cpu_native"), Random(0, dtype)
    pool = Pool(random(3, 320, 160), random(3, 320), random(3, 160, 320), random(3, 160))
    ffn, linear = native.grouped_ffn([pool], 1e-6), native.linear(random(480, 160), None)
    x_TD, plan = random(500, 160), make_plan(random.groups(500, 3, 2), torch.rand(500, 2), 3)
    before, found = torch.get_num_threads(), []
    for num_threads in (1, 2, 3, 7):
        torch.set_num_threads(num_threads)
        q_THC, k_THC, v_THC = linear(x_TD).view(500, 3, 5, 32).unbind(1)
        y_THC = native.attention(q_THC, k_THC, v_THC, [Run(2, 197), Run(1, 106)], None)
        found.append([ffn(x_TD, plan), q_THC, y_THC])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
