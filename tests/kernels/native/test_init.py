"""Which products are the library's own, and which oneDNN's."""

from typing import Any

import pytest
import torch

from vlmoe_kernels import Run, make_plan, native
from vlmoe_kernels.native.feed_forward import GroupedFeedForward
from vlmoe_kernels.native.library import library
from vlmoe_kernels.native.products import GroupedLinear, Linear

pytestmark = pytest.mark.usefixtures("native")


def ops_of(random: Any) -> list[object]:
    return [
        native.linear(random(4, 6), None),
        native.grouped_linear(random(2, 4, 6), None),
        native.grouped_ffn([random.pool(2, 6, 8)], 1e-6),
    ]


def test_fp32_is_its_own(fp32: Any) -> None:
    assert [type(op) for op in ops_of(fp32)] == [Linear, GroupedLinear, GroupedFeedForward]


def test_bf16_is_onednns_where_the_processor_has_tiles_for_it(
    random: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "cpu_flags", lambda: {"avx512_bf16", "amx_bf16"})
    is_own = random.dtype == torch.float32
    for op in ops_of(random):
        assert isinstance(op, Linear | GroupedLinear | GroupedFeedForward) == is_own


def test_without_bf16_in_the_processor_onednn_computes_it(
    random: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library(), "has_bf16", False)
    x_TD, plan = random(5, 6), make_plan(torch.tensor([[0], [1], [1], [0], [1]]), None, 2)
    linear, grouped, ffn = ops_of(random)
    assert [linear(x_TD).shape, grouped(x_TD, plan).shape, ffn(x_TD, plan).shape] == [(5, 4), (5, 4), (5, 6)]
    qkv = random(5, 3, 2, 4).unbind(1)
    assert native.attention(*qkv, [Run(1, 5)], None).dtype == random.dtype


def test_other_dtypes_are_served_too() -> None:
    x_TD, weight = torch.randn(3, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(native.linear(weight, None)(x_TD), x_TD @ weight.T)
