from typing import Any

import pytest
import torch

from vlmoe_kernels import backend, int8, make_plan
from vlmoe_kernels.int8 import int8_ffn, product, quantise, quantise_pool, quantise_rows

EPS = 1e-5


def test_weights_come_back_to_half_a_step(fp32: Any) -> None:
    weight = fp32(3, 7, 50)
    q, scale = quantise(weight)
    assert (q.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (3, 7))
    assert q.abs().amax(dim=-1).eq(127).all()
    assert ((q * scale.unsqueeze(-1) - weight).abs() <= scale.unsqueeze(-1) * 0.5001).all()


def test_weights_of_nothing_are_zeros() -> None:
    q, scale = quantise(torch.zeros(2, 3, 4))
    assert not q.any()
    assert scale.isfinite().all()


def test_rows_come_back_to_a_step_and_zero_exactly(fp32: Any) -> None:
    x_RK = torch.cat([fp32(40, 30), fp32(20, 30).abs(), torch.zeros(1, 30)])
    x_RK[:, 3] = 0.0
    q, scale, zero = quantise_rows(x_RK)
    assert ((q >= 0) & (q <= 255) & (q == q.round())).all()
    back = (q - zero) * scale
    assert ((back - x_RK).abs() <= 1.001 * scale).all()
    assert not back[:, 3].any()
    assert not back[-1].any()


def test_a_product_is_that_of_what_was_stored(fp32: Any) -> None:
    """Wider than one exact block, against integers in float64."""
    x_RK, bias = fp32(9, 1300), fp32(6)
    q_w, scale_w = quantise(fp32(6, 1300))
    q_x, scale_x, zero = quantise_rows(x_RK)
    sums = (q_x.double() - zero) @ q_w.double().mT
    expected = sums * scale_x * scale_w + bias
    torch.testing.assert_close(product(x_RK, q_w, scale_w, bias).double(), expected, rtol=1e-6, atol=1e-6)


def test_the_widest_block_is_exact() -> None:
    """The largest sum that one block can have still has no rounding."""
    q = torch.full((1, int8.EXACT_WIDTH), 255.0)
    assert int((q @ torch.full((int8.EXACT_WIDTH, 1), -128.0)).item()) == -255 * 128 * int8.EXACT_WIDTH
    assert 255 * 128 * int8.EXACT_WIDTH < 2**24


@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
def test_the_layer_is_near_the_one_it_was_made_from(random: Any, mid_norm: bool) -> None:
    pools = [random.pool(3, 48, 96, mid_norm=mid_norm), random.pool(1, 48, 96, mid_norm=mid_norm)]
    x_TD, plan = random(63, 48), random.plan(63, 4, 2, drop=0.2)
    expected = backend("eager").grouped_ffn(pools, EPS)(x_TD, plan).float()
    actual = int8_ffn([quantise_pool(pool) for pool in pools], EPS)(x_TD, plan)
    assert actual.dtype == x_TD.dtype
    assert (actual.float() - expected).norm() < 0.03 * expected.norm()


@pytest.mark.usefixtures("threads")
def test_a_row_has_the_same_bits_in_every_batch(random: Any) -> None:
    pools = [quantise_pool(random.pool(3, 64, 600))]
    x_TD, groups = random(40, 64), random.groups(40, 3, 1)
    op = int8_ffn(pools, EPS)
    whole = op(x_TD, make_plan(groups, None, 3))
    for t in (0, 7, 39):
        alone = op(x_TD[t : t + 1], make_plan(groups[t : t + 1], None, 3))
        assert torch.equal(alone[0], whole[t])
