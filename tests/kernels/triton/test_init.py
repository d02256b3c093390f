"""The operations against the reference: odd widths, empty experts, dropped choices."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import Run, backend, make_plan

Call = Callable[..., Any]

EPS = 1e-5
DIM, HIDDEN = 36, 72
TRITON = "vlmoe_kernels.triton"

# name: (tokens, choices per token, gated, share of choices dropped, mid-norm)
PLANS = {
    "one token": (1, 1, True, 0.0, False),
    "one token, two choices": (1, 2, True, 0.0, True),
    "19 tokens": (19, 1, True, 0.0, False),
    "19 tokens, ungated": (19, 1, False, 0.0, True),
    "19 tokens, two choices": (19, 2, True, 0.0, False),
    "19 tokens, dropped": (19, 1, True, 0.3, True),
    "19 tokens, two choices, dropped": (19, 2, True, 0.3, False),
    "all dropped": (7, 2, True, 1.0, True),
}


def steps(*arguments: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [(each, {}) for each in arguments]


def assert_near(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    tolerance = 1e-5 if expected.dtype == torch.float32 else 5e-3
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[torch.float32, torch.float16], ids=["fp32", "fp16"])
def random(request: pytest.FixtureRequest, fp32: Any) -> Any:
    return type(fp32)(request.param, fp32.generator)


@pytest.mark.parametrize("case", PLANS)
def test_grouped_ffn(call: Call, fp32: Any, case: str) -> None:
    num_tokens, num_choices, gated, drop, mid_norm = PLANS[case]
    # two pools in one launch
    pools = [fp32.pool(size, DIM, HIDDEN, mid_norm=mid_norm) for size in (3, 1)]
    plan = fp32.plan(num_tokens, 4, num_choices, gated=gated, drop=drop)
    x_TD = fp32(num_tokens, DIM)
    expected = backend("reference").grouped_ffn(pools, EPS)(x_TD, plan)
    assert_near(call(f"{TRITON}:grouped_ffn", *steps((pools, EPS), (x_TD, plan))), expected)


def test_grouped_ffn_in_fp16_with_everything_on_one_expert(call: Call, fp32: Any) -> None:
    random = type(fp32)(torch.float16, fp32.generator)
    pool, x_TD = random.pool(4, DIM, HIDDEN, mid_norm=True), random(19, DIM)
    plan = make_plan(torch.full((19, 1), 2), torch.rand(19, 1), 4)
    expected = backend("reference").grouped_ffn([pool], EPS)(x_TD, plan)
    assert_near(call(f"{TRITON}:grouped_ffn", *steps(([pool], EPS), (x_TD, plan))), expected)


def test_a_pool_of_one_expert_may_lose_rows(call: Call, fp32: Any) -> None:
    pool, x_TD = fp32.pool(1, DIM, HIDDEN), fp32(5, DIM)
    plan = make_plan(torch.tensor([[0], [-1], [0], [-1], [0]]), None, 1)
    expected = backend("reference").grouped_ffn([pool], EPS)(x_TD, plan)
    assert_near(call(f"{TRITON}:grouped_ffn", *steps(([pool], EPS), (x_TD, plan))), expected)


@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_linear(call: Call, random: Any, biased: bool) -> None:
    x_TD, weight, bias = random(19, DIM), random(70, DIM, scale=0.2), random(70) if biased else None
    expected = backend("reference").linear(weight, bias)(x_TD)
    assert_near(call(f"{TRITON}:linear", *steps((weight, bias), (x_TD,))), expected)


@pytest.mark.parametrize("drop", [0.0, 0.3], ids=["all", "dropped"])
def test_grouped_linear(call: Call, fp32: Any, drop: float) -> None:
    x_TD, weight, bias = fp32(19, DIM), fp32(3, 20, DIM, scale=0.2), fp32(3, 20)
    plan = fp32.plan(19, 3, 1, gated=False, drop=drop)
    expected = backend("reference").grouped_linear(weight, bias)(x_TD, plan)
    assert_near(call(f"{TRITON}:grouped_linear", *steps((weight, bias), (x_TD, plan))), expected)


def test_rows_may_be_views(call: Call, fp32: Any) -> None:
    wide, weight = fp32(6, 3 * DIM), fp32(20, DIM)
    for x_TD in (wide[:, DIM : 2 * DIM], wide.T[:DIM].T[:, ::1], fp32(DIM, 6).T):
        expected = backend("reference").linear(weight, None)(x_TD)
        assert_near(call(f"{TRITON}:linear", *steps((weight, None), (x_TD,))), expected)


@pytest.mark.parametrize("num_choices", [1, 2])
def test_a_token_has_the_same_bits_in_any_batch(call: Call, fp32: Any, num_choices: int) -> None:
    pools, x_TD = [fp32.pool(3, DIM, HIDDEN)], fp32(19, DIM)
    groups_TK, gates_TK = fp32.groups(19, 3, num_choices), torch.rand(19, num_choices)

    def run(tokens: Tensor) -> Tensor:
        plan = make_plan(groups_TK[tokens], gates_TK[tokens], 3)
        return call(f"{TRITON}:grouped_ffn", *steps((pools, EPS), (x_TD[tokens], plan)))

    whole = run(torch.arange(19))
    for tokens in (torch.tensor([4]), torch.arange(18, -1, -1)):
        assert torch.equal(run(tokens), whole[tokens])


def test_a_plan_for_other_weights_is_refused(interpreted: Call, fp32: Any) -> None:
    x_TD, plan = fp32(5, 6), fp32.plan(5, 3, 1)
    with pytest.raises(RuntimeError, match="the plan has 3 groups, the weights 2"):
        interpreted(f"{TRITON}:grouped_ffn", *steps(([fp32.pool(2, 6, 8)], EPS), (x_TD, plan)))
    with pytest.raises(RuntimeError, match="the plan has 3 groups, the weights 2"):
        interpreted(f"{TRITON}:grouped_linear", *steps((fp32(2, 6, 6), None), (x_TD, plan)))


def test_nothing_in_is_nothing_out(interpreted: Call, fp32: Any) -> None:
    plan = make_plan(torch.zeros(0, 2, dtype=torch.int64), None, 2)
    y_TD = interpreted(f"{TRITON}:grouped_ffn", *steps(([fp32.pool(2, 6, 8)], EPS), (fp32(0, 6), plan)))
    assert y_TD.shape == (0, 6)
    assert interpreted(f"{TRITON}:linear", *steps((fp32(5, 6), None), (fp32(0, 6),))).shape == (0, 5)
    none = fp32(0, 2, 8)
    assert interpreted(f"{TRITON}:attention", *steps((none, none, none, [], None))).shape == (0, 2, 8)


@pytest.mark.parametrize("limited", [False, True], ids=["dropless", "capacity"])
def test_routed_ffn_is_the_gate_and_then_the_experts(call: Call, fp32: Any, limited: bool) -> None:
    pools = [fp32.pool(2, DIM, HIDDEN), fp32.pool(1, DIM, HIDDEN)]
    routers, x_TD = [fp32(2, DIM), None], fp32(9, DIM)
    pool_T = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0, 0])
    limits = torch.tensor([3, 3, 9], dtype=torch.int32) if limited else None
    options = {"top_k": 1, "by_score": False}
    found = call(f"{TRITON}:routed_ffn", ((pools, routers, EPS), options), 1, ((x_TD, pool_T, limits), {}))

    gates_T, experts_T = (x_TD @ routers[0].T).softmax(dim=1).max(dim=1)
    groups_T = torch.where(pool_T == 1, 2, experts_T)
    if limited:
        for group in (0, 1):
            groups_T[(groups_T == group).nonzero()[3:, 0]] = -1
    gates_T[pool_T == 1] = 1.0
    plan = make_plan(groups_T.unsqueeze(1), gates_T.unsqueeze(1), 3)
    assert_near(found, backend("reference").grouped_ffn(pools, EPS)(x_TD, plan))


RUNS = {
    "one token": [Run(1, 1)],
    "lengths of one": [Run(3, 1)],
    "mixed": [Run(2, 7), Run(1, 1), Run(1, 40), Run(1, 7)],
}


@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no-bias"])
def test_attention(call: Call, random: Any, case: str, biased: bool) -> None:
    runs = RUNS[case]
    num_tokens = sum(run.num_sequences * run.length for run in runs)
    q_THC, k_THC, v_THC = random(num_tokens, 3, 2, 10).unbind(1)
    bias = [random(2, run.length, run.length) for run in runs] if biased else None
    expected = backend("reference").attention(q_THC, k_THC, v_THC, runs, bias)
    assert_near(call(f"{TRITON}:attention", *steps((q_THC, k_THC, v_THC, runs, bias))), expected)


def test_importing_the_kernels_does_not_import_triton() -> None:
    script = (
        "import sys, vlmoe_kernels, vlmoe_kernels.eager, vlmoe_kernels.cpu; print('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
