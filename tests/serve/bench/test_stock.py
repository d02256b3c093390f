"""What is compared with must be right: the stock networks' states are those of the reference."""

import dataclasses

import pytest
import torch

from vlmoe_kernels import backend
from vlmoe_serve.bench.cases import CASES, batch
from vlmoe_serve.bench.networks import Model, encode
from vlmoe_serve.bench.stock import GroupedMM, Loop, Sorted, has_grouped_mm

VARIANTS = [
    Sorted(),
    Loop(),
    pytest.param(
        GroupedMM(), marks=pytest.mark.skipif(not has_grouped_mm(), reason="transformers is not installed")
    ),
]
FEATURES = {
    "plain": {},
    "VLMo": {"relative_position": True, "layer_scale": 0.1},
    "BEiT-3": {"multiway_attention": True, "sub_ln": True},
}


def states(model, packed, of, dtype, *, dense=False):
    weights = model.weights(dtype)
    with torch.inference_mode():
        return encode(model.network(of, dtype, weights, dense=dense), packed)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("case", ["image8", "pair8", "ragged"])
def test_the_same_states_as_ours(config, variant, balanced, case):
    model, packed = Model(config, None, balanced), batch(case, config)
    ours = states(model, packed, backend("cpu"), torch.float32)
    torch.testing.assert_close(states(model, packed, variant, torch.float32), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("dense", [True, False])
def test_every_kind_of_network(config, features, dense):
    config = dataclasses.replace(config, **features)
    model = Model(config, None, True)
    for case in set(CASES) - {"image1_480", "image8_480"}:
        packed = batch(case, config)
        ours = states(model, packed, backend("cpu"), torch.float32, dense=dense)
        stock = states(model, packed, Sorted(), torch.float32, dense=dense)
        torch.testing.assert_close(stock, ours, rtol=1e-4, atol=1e-4)


def test_bf16(config):
    model, packed = Model(config, None, True), batch("ragged", config)
    ours = states(model, packed, backend("cpu"), torch.bfloat16)
    torch.testing.assert_close(states(model, packed, Sorted(), torch.bfloat16), ours, rtol=0.05, atol=0.05)


def test_weights_are_used_where_they_are(config):
    model = Model(config, None, True)
    weights = model.weights(torch.float32)
    network = model.network(Sorted(), torch.float32, weights)
    shape = torch.Size((1, 3 * config.dim, config.dim))
    weights._made["attn.qkv.weight", shape].zero_()
    linear = network.encoder.blocks[0].attn.qkv
    x_TD = torch.randn(3, config.dim)
    assert linear(x_TD, None, None).equal(torch.zeros(3, 3 * config.dim) + linear(0 * x_TD, None, None))
