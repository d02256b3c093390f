import dataclasses

import torch

from vlmoe_kernels import backend
from vlmoe_model.presets import PRESETS
from vlmoe_serve.bench.cases import batch
from vlmoe_serve.bench.networks import Model, encode
from vlmoe_serve.bench.work import work_of


def work(config, case):
    model, packed, log = Model(config, None, True), batch(case, config), []
    network = model.network(backend("eager"), torch.float32, model.weights(torch.float32))
    with torch.inference_mode():
        encode(network, packed, log)
    return work_of(packed, config, 4, log)


def test_products_and_weights_of_pictures(config):
    # 8 pictures of 17 tokens; blocks of attention and two products, two choices in two blocks
    tokens, dim, hidden = 8 * 17, config.dim, config.ffn_dim
    linear = 4 * dim * dim * config.num_layers
    expert = 2 * dim * hidden
    logits = 2 * dim * 17 * 17 * 8 * config.num_layers
    stem = 3 * 8 * 8 * dim
    counted = work(config, "image8")
    routers = 2 * tokens * dim * config.num_experts
    adds = tokens * (linear + (2 + 2 * 2) * expert) + logits + routers + 8 * 16 * stem
    assert counted.multiply_adds == adds
    assert counted.num_bytes == 4 * (linear + (2 + 2 * config.num_experts) * expert + stem)


def test_pairs_use_both_pools_and_then_the_shared_layer(config):
    expert = 2 * config.dim * config.ffn_dim
    both, shared = 2, 1
    layers = 2 * both + both * config.num_experts + shared
    linear = 4 * config.dim**2 * config.num_layers
    assert work(config, "pair8").num_bytes == 4 * (linear + layers * expert + 3 * 64 * config.dim)


def test_only_experts_that_are_used_are_read(config):
    # one picture of 17 tokens cannot use 64 experts
    many = dataclasses.replace(config, num_experts=64, top_k=1)
    few = dataclasses.replace(config, num_experts=17, top_k=1)
    assert work(many, "image1").num_bytes == work(few, "image1").num_bytes


def test_the_dense_twin_of_the_base_model():
    config = PRESETS["vlmo_dense_base"]
    counted = work_of(batch("image1", config), config, 2, [])
    assert round(1e-9 * counted.multiply_adds, 1) == 17.6
