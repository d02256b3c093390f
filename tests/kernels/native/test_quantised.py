from typing import Any

import pytest
import torch

from vlmoe_kernels import make_plan, native
from vlmoe_kernels.int8 import Int8Backend, int8_ffn, quantise_pool
from vlmoe_kernels.native.library import library
from vlmoe_kernels.native.quantised import Int8FeedForward

pytestmark = pytest.mark.usefixtures("native")

EPS = 1e-5

# tokens, groups of the first pool, choices, gated, share of dropped choices
PLANS = {
    "one token": (1, 3, 1, True, 0.0),
    "empty experts": (2, 9, 2, True, 0.0),
    "two choices": (63, 3, 2, True, 0.0),
    "dropped": (100, 3, 2, True, 0.3),
    "no gates": (40, 2, 1, False, 0.0),
    "many rows": (900, 1, 1, True, 0.0),
}


@pytest.fixture
def vnni() -> None:
    """Tests that run the kernel; elsewhere there is plain torch, which has tests of its own."""
    if not library().has_vnni:
        pytest.skip("the processor has no AVX512_VNNI")


@pytest.mark.usefixtures("vnni", "threads")
@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("mid_norm", [True, False], ids=["mid-norm", "no-mid-norm"])
@pytest.mark.parametrize(("dim", "hidden"), [(97, 601), (64, 130)])
def test_the_kernel_is_its_twin_in_torch(
    random: Any, case: str, mid_norm: bool, dim: int, hidden: int
) -> None:
    num_tokens, experts, num_choices, gated, drop = PLANS[case]
    pools = [quantise_pool(random.pool(count, dim, hidden, mid_norm=mid_norm)) for count in (experts, 1)]
    plan = random.plan(num_tokens, experts + 1, num_choices, gated=gated, drop=drop)
    x_TD = random(num_tokens, dim)
    expected = int8_ffn(pools, EPS)(x_TD, plan).float()
    actual = Int8FeedForward(pools, EPS)(x_TD, plan).float()
    # GELU's last bit may move a byte between the products by one step
    step = 1.5e-2 if x_TD.dtype == torch.bfloat16 else 4e-3
    assert (actual - expected).norm() <= step * expected.norm()


@pytest.mark.usefixtures("vnni", "threads")
def test_a_row_has_the_same_bits_in_every_batch(random: Any) -> None:
    op = Int8FeedForward([quantise_pool(random.pool(3, 100, 300))], EPS)
    x_TD, groups, gates = random(50, 100), random.groups(50, 3, 2), torch.rand(50, 2)
    whole = op(x_TD, make_plan(groups, gates, 3))
    for t in (0, 7, 49):
        alone = op(x_TD[t : t + 1], make_plan(groups[t : t + 1], gates[t : t + 1], 3))
        assert torch.equal(alone[0], whole[t])


@pytest.mark.usefixtures("vnni")
@pytest.mark.parametrize("dim", [63, 256, 601])
def test_a_row_has_the_same_bits_among_any_number_of_rows(random: Any, dim: int) -> None:
    """One block of rows, several chunk by chunk, many panel by panel."""
    op, x_TD = Int8FeedForward([quantise_pool(random.pool(1, dim, 130))], EPS), random(40, dim)

    def run(num_rows: int) -> torch.Tensor:
        return op(x_TD[:num_rows], make_plan(torch.zeros(num_rows, 1, dtype=torch.int64), None, 1))

    whole = run(40)
    for num_rows in range(1, 40):
        assert torch.equal(run(num_rows), whole[:num_rows]), num_rows


@pytest.mark.usefixtures("vnni")
def test_rows_of_zeros_and_of_one_sign(fp32: Any) -> None:
    pool = quantise_pool(fp32.pool(1, 40, 64))
    x_TD = torch.cat([torch.zeros(1, 40), fp32(2, 40).abs(), -fp32(2, 40).abs()])
    plan = make_plan(torch.zeros(5, 1, dtype=torch.int64), None, 1)
    torch.testing.assert_close(
        Int8FeedForward([pool], EPS)(x_TD, plan), int8_ffn([pool], EPS)(x_TD, plan), rtol=1e-3, atol=5e-3
    )


@pytest.mark.usefixtures("vnni")
def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    op = Int8FeedForward([quantise_pool(fp32.pool(2, 20, 36))], EPS)
    with pytest.raises(ValueError, match="the plan has 3 groups, the weights 2"):
        op(fp32(4, 20), fp32.plan(4, 3, 1))
    with pytest.raises(ValueError, match=r"rows must be torch.float32 \[T, 20\]"):
        op(fp32(4, 21), fp32.plan(4, 2, 1))
    with pytest.raises(ValueError, match="float64"):
        op(fp32(4, 20).double(), fp32.plan(4, 2, 1))


def test_without_byte_products_plain_torch_takes_over(fp32: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(native, Int8Backend)
    monkeypatch.setattr(library(), "has_vnni", False)
    pool = quantise_pool(fp32.pool(2, 20, 36))
    x_TD, plan = fp32(9, 20), fp32.plan(9, 2, 1)
    assert torch.equal(native.int8_ffn([pool], EPS)(x_TD, plan), int8_ffn([pool], EPS)(x_TD, plan))
