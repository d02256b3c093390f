"""Every backend, and the plain fallback of the CPU's, against the reference: forward, and eager also backward."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import BACKENDS, Backend, Pool, RoutePlan, Run, backend, cpu, make_plan
from vlmoe_kernels.choice import why_not_native

COMPARED = ("eager", "cpu", "cpu-plain", "cpu_native")
NUM_TOKENS = (1, 63, 100)
EPS = 1e-5

# name: (tokens, groups, choices per token, gated, share of choices dropped)
PLANS = {
    "one token": (1, 4, 1, True, 0.0),
    "one token, two choices": (1, 4, 2, True, 0.0),
    "63 tokens": (63, 4, 1, True, 0.0),
    "63 tokens, ungated": (63, 4, 1, False, 0.0),
    "100 tokens, two choices": (100, 4, 2, True, 0.0),
    "100 tokens, dropped": (100, 4, 1, True, 0.3),
    "100 tokens, two choices, dropped": (100, 4, 2, True, 0.3),
    "all dropped": (7, 4, 2, True, 1.0),
}


@pytest.fixture(params=COMPARED)
def compared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    name, _, plain = request.param.partition("-")
    if name == "cpu_native" and (reason := why_not_native()):
        pytest.skip(reason)
    if plain:
        monkeypatch.setattr(cpu, "has_packing", lambda dtype: False)
    return backend(name)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    tolerance = 1e-5 if expected.dtype == torch.float32 else 0.04
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_every_backend_is_compared() -> None:
    # Triton needs a process of its own: tests/kernels/triton
    assert {name.partition("-")[0] for name in COMPARED} | {"reference", "triton", "vllm"} == set(BACKENDS)


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_linear(compared: Backend, random: Any, num_tokens: int, biased: bool) -> None:
    x_TD, weight, bias = random(num_tokens, 20), random(36, 20, scale=0.2), random(36) if biased else None
    expected = backend("reference").linear(weight, bias)(x_TD)
    assert_near(compared.linear(weight, bias)(x_TD), expected)


@pytest.mark.parametrize("num_tokens", NUM_TOKENS)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_grouped_linear(compared: Backend, random: Any, num_tokens: int, biased: bool) -> None:
    x_TD, weight, bias = (
        random(num_tokens, 20),
        random(3, 36, 20, scale=0.2),
        random(3, 36) if biased else None,
    )
    plan = random.plan(num_tokens, 3, 1, gated=False)
    expected = backend("reference").grouped_linear(weight, bias)(x_TD, plan)
    assert_near(compared.grouped_linear(weight, bias)(x_TD, plan), expected)


def test_grouped_linear_of_no_rows_is_zeros_of_the_output_width(compared: Backend, fp32: Any) -> None:
    plan = make_plan(torch.full((4, 1), -1), None, 2)
    y_TO = compared.grouped_linear(fp32(2, 5, 3), None)(fp32(4, 3), plan)
    assert torch.equal(y_TO, torch.zeros(4, 5))


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
def test_grouped_ffn(compared: Backend, random: Any, case: str, mid_norm: bool) -> None:
    num_tokens, num_groups, num_choices, gated, drop = PLANS[case]
    # two pools, so that groups run on from one to the next
    pools = [
        random.pool(num_groups - 1, 20, 36, mid_norm=mid_norm),
        random.pool(1, 20, 36, mid_norm=mid_norm),
    ]
    plan = random.plan(num_tokens, num_groups, num_choices, gated=gated, drop=drop)
    x_TD = random(num_tokens, 20)
    expected = backend("reference").grouped_ffn(pools, EPS)(x_TD, plan)
    assert_near(compared.grouped_ffn(pools, EPS)(x_TD, plan), expected)


@pytest.mark.parametrize("group", [0, 2, 3])
def test_all_tokens_on_one_expert(compared: Backend, random: Any, group: int) -> None:
    pools = [random.pool(3, 20, 36), random.pool(1, 20, 36)]
    plan = make_plan(torch.full((63, 1), group), torch.rand(63, 1), 4)
    x_TD = random(63, 20)
    expected = backend("reference").grouped_ffn(pools, EPS)(x_TD, plan)
    assert_near(compared.grouped_ffn(pools, EPS)(x_TD, plan), expected)


def test_the_reference_is_the_layer_written_out(fp32: Any) -> None:
    pool = fp32.pool(2, 6, 10, mid_norm=True)
    x_TD, gates = fp32(1, 6), torch.tensor([[0.25, 0.5]])
    plan = make_plan(torch.tensor([[1, 0]]), gates, 2)
    expected = torch.zeros(6)
    for expert, gate in ((1, 0.25), (0, 0.5)):
        fc1, fc2 = torch.nn.Linear(6, 10), torch.nn.Linear(10, 6)
        norm = torch.nn.LayerNorm(10, eps=EPS)
        values = (pool.w1, pool.b1, pool.w2, pool.b2, pool.mid_weight, pool.mid_bias)
        for parameter, value in zip(
            (*fc1.parameters(), *fc2.parameters(), *norm.parameters()), values, strict=True
        ):
            parameter.data = value[expert]
        expected += gate * fc2(norm(torch.nn.GELU()(fc1(x_TD[0])))).detach()
    torch.testing.assert_close(backend("reference").grouped_ffn([pool], EPS)(x_TD, plan)[0], expected)


@pytest.mark.parametrize("operation", ["grouped_ffn", "grouped_linear"])
def test_a_plan_for_other_weights_is_refused(compared: Backend, fp32: Any, operation: str) -> None:
    op = (
        compared.grouped_ffn([fp32.pool(2, 6, 8)], EPS)
        if operation == "grouped_ffn"
        else compared.grouped_linear(fp32(2, 6, 6), None)
    )
    with pytest.raises(ValueError, match="the plan has 3 groups, the weights 2"):
        op(fp32(5, 6), fp32.plan(5, 3, 1))


RUNS = {
    "one token": [Run(1, 1)],
    "lengths of one": [Run(5, 1)],
    "mixed": [Run(3, 7), Run(1, 1), Run(2, 40), Run(4, 7)],
    "one long": [Run(1, 100)],
}


@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize("heads", [1, 2, 12])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_attention(compared: Backend, random: Any, case: str, heads: int, biased: bool) -> None:
    runs = RUNS[case]
    num_tokens = sum(run.num_sequences * run.length for run in runs)
    q_THC, k_THC, v_THC = (random(num_tokens, heads, 10) for _ in range(3))
    bias = [random(heads, run.length, run.length) for run in runs] if biased else None
    expected = backend("reference").attention(q_THC, k_THC, v_THC, runs, bias)
    assert_near(compared.attention(q_THC, k_THC, v_THC, runs, bias), expected)


def test_attention_in_chunks_is_attention(
    compared: Backend, fp32: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [Run(7, 5), Run(3, 9)]
    q_THC, k_THC, v_THC = (fp32(62, 2, 8) for _ in range(3))
    whole = compared.attention(q_THC, k_THC, v_THC, runs, None)
    monkeypatch.setattr("vlmoe_kernels.eager.MAX_LOGITS", 2 * 2 * 5 * 5)
    assert torch.equal(compared.attention(q_THC, k_THC, v_THC, runs, None), whole)


def test_attention_never_crosses_sequences(compared: Backend, fp32: Any) -> None:
    runs = [Run(2, 4), Run(1, 6)]
    q_THC, k_THC, v_THC = (fp32(14, 2, 8) for _ in range(3))
    before = compared.attention(q_THC, k_THC, v_THC, runs, None)
    for changed in (k_THC, v_THC):
        changed[4:8] += 1.0
    after = compared.attention(q_THC, k_THC, v_THC, runs, None)
    assert torch.equal(before[:4], after[:4])
    assert torch.equal(before[8:], after[8:])
    assert not torch.allclose(before[4:8], after[4:8])


def test_attention_of_nothing_is_nothing(compared: Backend) -> None:
    empty = torch.zeros(0, 2, 4)
    for chosen in (backend("reference"), compared):
        assert chosen.attention(empty, empty, empty, [], None).shape == (0, 2, 4)


def gradients(op_inputs: Sequence[Tensor], y: Tensor) -> list[Tensor]:
    # a fixed, uneven direction: the gradient of a plain sum would hide swapped rows
    direction = torch.linspace(-1.0, 1.0, y.numel()).view_as(y)
    return list(torch.autograd.grad((y * direction).sum(), op_inputs))


@pytest.mark.parametrize("case", [case for case in PLANS if case != "all dropped"])
@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
def test_gradients_of_grouped_ffn(fp32: Any, case: str, mid_norm: bool) -> None:
    num_tokens, num_groups, num_choices, gated, drop = PLANS[case]
    pool = fp32.pool(num_groups, 12, 20, mid_norm=mid_norm)
    groups_TK = fp32.groups(num_tokens, num_groups, num_choices, drop)
    gates_TK = torch.rand(num_tokens, num_choices)
    inputs = [fp32(num_tokens, 12), *(t for t in pool if t is not None), *([gates_TK] if gated else [])]
    for tensor in inputs:
        tensor.requires_grad_(True)
    found = []
    for name in ("reference", "eager"):
        plan: RoutePlan = make_plan(groups_TK, gates_TK if gated else None, num_groups)
        y_TD = backend(name).grouped_ffn([Pool(*pool)], EPS)(inputs[0], plan)
        found.append(gradients(inputs, y_TD))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_linear_and_grouped_linear(fp32: Any) -> None:
    x_TD, weight, bias = fp32(63, 12), fp32(3, 20, 12), fp32(3, 20)
    plan = fp32.plan(63, 3, 1, gated=False)
    inputs = [t.requires_grad_(True) for t in (x_TD, weight, bias)]
    grouped, single = (
        [gradients(inputs, op(backend(name))) for name in ("reference", "eager")]
        for op in (
            lambda chosen: chosen.grouped_linear(weight, bias)(x_TD, plan),
            lambda chosen: chosen.linear(weight[0], bias[0])(x_TD),
        )
    )
    for expected, actual in (*zip(*grouped, strict=True), *zip(*single, strict=True)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", RUNS)
def test_gradients_of_attention(fp32: Any, case: str) -> None:
    runs = RUNS[case]
    num_tokens = sum(run.num_sequences * run.length for run in runs)
    inputs = [fp32(num_tokens, 2, 6).requires_grad_(True) for _ in range(3)]
    bias = [fp32(2, run.length, run.length).requires_grad_(True) for run in runs]
    found = [
        gradients([*inputs, *bias], backend(name).attention(*inputs, runs, bias))
        for name in ("reference", "eager")
    ]
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
