"""What only a GPU can show: bf16, the shapes of a base model, the same bits in any batch, and no waiting."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_kernels import Pool, Run, backend, eager, make_plan
from vlmoe_kernels.triton.gemm import empty_rows, grouped_gemm
from vlmoe_kernels.triton.tiles import LADDERS, architecture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

DIM, HIDDEN, EXPERTS = 768, 3072, 8
EPS = 1e-6
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def random(fp32: Any, dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *shape, scale=1.0: fp32(*shape, scale=scale).to("cuda", dtype)


def pool_of(fp32: Any, num_experts: int, dtype: torch.dtype, *, mid_norm: bool = False) -> Pool:
    pool = fp32.pool(num_experts, DIM, HIDDEN, mid_norm=mid_norm)
    return Pool._make(None if t is None else t.to("cuda", dtype) for t in pool)


def in_fp32(pool: Pool) -> Pool:
    return Pool._make(None if t is None else t.float() for t in pool)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_tokens", [1, 40, 1576])
@pytest.mark.parametrize("num_choices", [1, 2])
def test_a_mixture_of_a_base_model(
    fp32: Any, dtype: torch.dtype, random: Callable[..., Tensor], num_tokens: int, num_choices: int
) -> None:
    pools = [pool_of(fp32, EXPERTS, dtype, mid_norm=num_choices == 2) for _ in range(2)]
    groups_TK = fp32.groups(num_tokens, 2 * EXPERTS, num_choices).cuda()
    plan = make_plan(groups_TK, torch.rand(num_tokens, num_choices, device="cuda"), 2 * EXPERTS)
    x_TD = random(num_tokens, DIM)
    expected = eager.grouped_ffn([in_fp32(pool) for pool in pools], EPS)(x_TD.float(), plan)
    assert_near(backend("triton").grouped_ffn(pools, EPS)(x_TD, plan), expected)


@pytest.mark.parametrize("num_choices", [1, 2])
def test_gradients_of_a_mixture_of_a_base_model(fp32: Any, dtype: torch.dtype, num_choices: int) -> None:
    """Float32 weights under autocast, as a trainer has them; the same bits twice."""
    pools = [pool_of(fp32, EXPERTS, torch.float32, mid_norm=num_choices == 2) for _ in range(2)]
    weights = [t.requires_grad_(True) for pool in pools for t in pool if t is not None]
    groups_TK = fp32.groups(400, 2 * EXPERTS, num_choices).cuda()
    gates_TK = torch.rand(400, num_choices, device="cuda").requires_grad_(True)
    x_TD, direction_TD = (fp32(400, DIM).cuda().requires_grad_(True) for _ in range(2))

    def gradients(name: str, precision: torch.dtype) -> tuple[Tensor, ...]:
        with torch.autocast("cuda", precision, enabled=precision != torch.float32):
            plan = make_plan(groups_TK, gates_TK, 2 * EXPERTS)
            y_TD = backend(name).learning_ffn(pools, EPS)(x_TD, plan)
        direction = direction_TD.detach().to(y_TD.dtype)
        return torch.autograd.grad(y_TD, [x_TD, gates_TK, *weights], direction)

    found, again = (gradients("triton", dtype) for _ in range(2))
    for actual, same, expected in zip(found, again, gradients("eager", torch.float32), strict=True):
        assert torch.equal(actual, same)
        assert (actual - expected).norm() <= TOLERANCE[dtype] * expected.norm()


def test_attention_of_a_ragged_batch(random: Callable[..., Tensor]) -> None:
    runs = [Run(4, 197), Run(3, 40), Run(1, 237), Run(5, 1)]
    num_tokens = sum(run.num_sequences * run.length for run in runs)
    qkv = random(num_tokens, 3, 12, 64)
    for bias in (None, [random(12, run.length, run.length) for run in runs]):
        plain = None if bias is None else [b.float() for b in bias]
        expected = eager.attention(*qkv.float().unbind(1), runs, plain)
        assert_near(backend("triton").attention(*qkv.unbind(1), runs, bias), expected)


def test_a_row_has_the_same_bits_in_any_batch(
    fp32: Any, dtype: torch.dtype, random: Callable[..., Tensor]
) -> None:
    chosen = backend("triton")
    weight, x_TD = random(3 * DIM, DIM, scale=DIM**-0.5), random(1576, DIM)
    linear = chosen.linear(weight, None)
    pool, router = pool_of(fp32, EXPERTS, dtype), fp32(EXPERTS, DIM).cuda()
    _, routed = chosen.routed_ffn([pool], [router], EPS, top_k=1, by_score=False)
    whole = linear(x_TD), routed(x_TD, torch.zeros(1576, dtype=torch.int64, device="cuda"), None)
    for rows in (slice(5, 6), slice(0, 40), slice(800, 1000)):
        part = x_TD[rows].clone()
        pool_T = torch.zeros(len(part), dtype=torch.int64, device="cuda")
        assert torch.equal(linear(part), whole[0][rows])
        assert torch.equal(routed(part, pool_T, None), whole[1][rows])


@pytest.mark.parametrize(("out_dim", "in_dim"), [(2304, 768), (768, 3072), (3072, 768)])
def test_the_tiles_of_a_ladder_have_the_same_bits(fp32: Any, out_dim: int, in_dim: int) -> None:
    """So the number of rows may choose among them."""
    for (_, num_bytes), ladder in LADDERS.items():
        if num_bytes != 2 or architecture(torch.device("cuda")) != "sm_90":
            continue
        for dtype in (torch.bfloat16, torch.float16):
            weight, x = (
                fp32(1, out_dim, in_dim, scale=0.1).to("cuda", dtype),
                fp32(1576, in_dim).to("cuda", dtype),
            )
            for gelu in (False, True):
                outs = [
                    grouped_gemm(x, weight, None, tile, out=empty_rows(x, 1576, out_dim), gelu=gelu)
                    for tile in ladder
                ]
                assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_sequence_has_the_same_bits_in_any_batch(random: Callable[..., Tensor]) -> None:
    qkv = random(5 * 197 + 40, 3, 12, 64)
    attention = backend("triton").attention
    whole = attention(*qkv.unbind(1), [Run(1, 40), Run(5, 197)], None)
    alone = attention(*qkv[40 + 197 : 40 + 2 * 197].clone().unbind(1), [Run(1, 197)], None)
    assert torch.equal(alone, whole[40 + 197 : 40 + 2 * 197])


def test_a_mixture_does_not_wait_for_the_device(fp32: Any) -> None:
    pool, router = pool_of(fp32, EXPERTS, torch.bfloat16), fp32(EXPERTS, DIM).cuda()
    _, routed = backend("triton").routed_ffn([pool], [router], EPS, top_k=2, by_score=True)
    x_TD, pool_T = torch.randn(197, DIM, device="cuda"), torch.zeros(197, dtype=torch.int64, device="cuda")
    # the first call compiles
    routed(x_TD, pool_T, None)
    with warnings.catch_warnings():
        # torch says of this mode that it is a prototype
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        routed(x_TD, pool_T, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_than_2_to_the_31_weights(fp32: Any) -> None:
    """Addresses take 64 bits. 4.5 GB of memory."""
    num_groups, out_dim, in_dim = 513, 2048, 2048
    weight = torch.zeros(num_groups, out_dim, in_dim, dtype=torch.bfloat16, device="cuda")
    weight[-1] = fp32(out_dim, in_dim, scale=in_dim**-0.5)
    x_TD = fp32(3, in_dim).to("cuda", torch.bfloat16)
    plan = make_plan(torch.full((3, 1), num_groups - 1, device="cuda"), None, num_groups)
    expected = x_TD.float() @ weight[-1].float().T
    assert_near(backend("triton").grouped_linear(weight, None)(x_TD, plan), expected)
