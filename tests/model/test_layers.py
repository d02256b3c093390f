import pytest
import torch
import torch.nn.functional as F

from vlmoe_kernels import backend
from vlmoe_model.layers import GroupedNorm, Linear, give_up, init_weight


def test_initial_weights_are_cut_at_two_deviations() -> None:
    torch.manual_seed(0)
    weight = init_weight(200, 200, std=0.5)
    assert weight.abs().max() <= 1.0
    # the deviation of a normal that is cut at two of its own
    assert weight.std().item() == pytest.approx(0.5 * 0.8796, rel=0.02)


@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_is_the_linear(bias: bool) -> None:
    layer = Linear(6, 4, bias=bias).requires_grad_(False)
    if layer.bias is not None:
        layer.bias.copy_(torch.randn(4))
    x_TD = torch.randn(5, 6)
    before = layer(x_TD)
    layer.pack(backend("cpu"), torch.float32)
    torch.testing.assert_close(layer(x_TD), before)
    assert list(layer.parameters()) == []


def test_a_packed_linear_casts_its_input() -> None:
    layer = Linear(6, 4).requires_grad_(False)
    layer.pack(backend("cpu"), torch.bfloat16)
    assert layer(torch.randn(5, 6)).dtype == torch.bfloat16


def test_giving_up_passes_over_what_is_not_there() -> None:
    layer = Linear(6, 4, bias=False)
    give_up(layer, "weight", "bias")
    assert (layer.weight, layer.bias) == (None, None)


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_a_grouped_norm_is_the_norm_of_each_tokens_group(num_groups: int) -> None:
    norm = GroupedNorm(8, num_groups, 1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(num_groups, 8))
        norm.bias.copy_(torch.randn(num_groups, 8))
    x_TD, groups_T = torch.randn(20, 8), torch.randint(num_groups, (20,))
    expected = [
        F.layer_norm(x, (8,), norm.weight[g], norm.bias[g], 1e-3) for x, g in zip(x_TD, groups_T, strict=True)
    ]
    torch.testing.assert_close(norm(x_TD, F.one_hot(groups_T, num_groups).float()), torch.stack(expected))
