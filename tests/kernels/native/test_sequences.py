"""What the backends' common tests do not see: layouts, long sequences, extreme logits, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vlmoe_kernels import Run
from vlmoe_kernels.native.sequences import attend

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize(("length", "width"), [(577, 64), (65, 1), (64, 128), (130, 77)])
def test_long_and_odd_sequences(random: Any, length: int, width: int) -> None:
    q_THC, k_THC, v_THC = (random(2 * length, 2, width) for _ in range(3))
    found = attend(q_THC, k_THC, v_THC, [Run(2, length)], None)
    q, k, v = (t.double().view(2, length, 2, width).transpose(1, 2) for t in (q_THC, k_THC, v_THC))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2 * length, 2, width)
    tolerance = 2e-6 if q_THC.dtype == torch.float32 else 0.01
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_inputs_may_lie_anyhow(random: Any) -> None:
    q_THC, k_THC, v_THC = (random(10, 3, 8) for _ in range(3))
    expected = attend(q_THC, k_THC, v_THC, [Run(2, 5)], None)
    qkv = torch.stack([q_THC, k_THC, v_THC], dim=1)
    assert torch.equal(attend(*qkv.unbind(1), [Run(2, 5)], None), expected)
    turned = [t.permute(2, 1, 0).contiguous().permute(2, 1, 0) for t in (q_THC, k_THC, v_THC)]
    assert torch.equal(attend(*turned, [Run(2, 5)], None), expected)


def test_extreme_logits_stay_finite(random: Any) -> None:
    q_THC, k_THC, v_THC = (100 * random(20, 2, 16), 100 * random(20, 2, 16), random(20, 2, 16))
    found = attend(q_THC, k_THC, v_THC, [Run(1, 20)], None)
    best = (q_THC.float().transpose(0, 1) @ k_THC.float().permute(1, 2, 0)).argmax(-1)
    assert torch.equal(found[:, 0], v_THC[best[0], 0])
    assert torch.equal(found[:, 1], v_THC[best[1], 1])


def test_a_bias_of_minus_infinity_hides_a_token(random: Any) -> None:
    q_THC, k_THC, v_THC = (random(9, 2, 16) for _ in range(3))
    bias = torch.zeros(2, 9, 9)
    bias[:, :, 3] = -torch.inf
    kept = [0, 1, 2, 4, 5, 6, 7, 8]
    found = attend(q_THC, k_THC, v_THC, [Run(1, 9)], [bias])
    expected = attend(q_THC[kept], k_THC[kept], v_THC[kept], [Run(1, 8)], None)
    tolerance = 1e-6 if q_THC.dtype == torch.float32 else 0.02
    torch.testing.assert_close(found[kept], expected, rtol=tolerance, atol=tolerance)


def test_a_bias_of_another_dtype_or_layout(fp32: Any) -> None:
    q_THC, k_THC, v_THC = (fp32(6, 2, 4) for _ in range(3))
    bias = fp32(2, 6, 6).bfloat16()
    expected = attend(q_THC, k_THC, v_THC, [Run(1, 6)], [bias.float()])
    turned = bias.mT.contiguous().mT
    assert torch.equal(attend(q_THC, k_THC, v_THC, [Run(1, 6)], [turned]), expected)


def test_what_does_not_fit_is_refused(fp32: Any) -> None:
    q_THC = fp32(6, 2, 4)
    for bad in (fp32(5, 2, 4), fp32(6, 1, 4), q_THC.bfloat16()):
        with pytest.raises(ValueError, match="q, k and v must be"):
            attend(q_THC, q_THC, bad, [Run(1, 6)], None)
    with pytest.raises(ValueError, match="q, k and v must be"):
        attend(q_THC, q_THC, q_THC, [Run(2, 6)], None)
