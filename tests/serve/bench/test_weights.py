import dataclasses

import torch

from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.network import VLMoE
from vlmoe_serve.bench.weights import Weights, checkpoint


def filled(weights, config):
    with torch.device("meta"):
        network = VLMoE(config)
    weights.fill(network)
    return network


def test_random_ones_are_shared_by_the_blocks_and_by_the_networks(config):
    weights = Weights(torch.bfloat16)
    network, twin = filled(weights, config), filled(weights, config.dense_twin())
    first, second = (network.encoder.blocks[block] for block in (1, 3))
    assert first.ffn.pools["V"].w1.data_ptr() == second.ffn.pools["V"].w1.data_ptr()
    assert first.attn.qkv.weight.data_ptr() == twin.encoder.blocks[0].attn.qkv.weight.data_ptr()
    assert first.ffn.pools["V"].w1.shape != twin.encoder.blocks[1].ffn.pools["V"].w1.shape


def test_the_same_random_ones_every_time(config):
    first, second = (filled(Weights(torch.float32), config).state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


def test_matrices_have_the_dtype_and_the_rest_is_float32(config):
    network = filled(Weights(torch.bfloat16), config)
    block = network.encoder.blocks[1]
    assert block.ffn.pools["T"].w2.dtype == block.attn.out.weight.dtype == torch.bfloat16
    assert block.ffn.routers["V"].weight.dtype == block.norm1.weight.dtype == torch.float32
    assert network.embeddings.words.dtype == torch.float32


def test_norms_keep_their_inputs_size(config):
    network = filled(Weights(torch.float32), dataclasses.replace(config, sub_ln=True))
    for scale in (network.encoder.norm.weight, network.encoder.blocks[1].ffn.pools["V"].mid_weight):
        assert abs(scale.mean() - 1.0) < 0.1


def test_a_checkpoints_tensors_and_random_ones_for_its_dense_twin():
    config, given = checkpoint("demo")
    weights = Weights(torch.float32, given)
    network, twin = filled(weights, config), filled(weights, config.dense_twin())
    stored = load_state("demo")
    name = "encoder.blocks.1.ffn.pools.V.w1"
    assert network.state_dict()[name].equal(stored[name].float())
    assert twin.state_dict()[name].shape == (1, *stored[name].shape[1:])
    name = "encoder.blocks.1.attn.qkv.weight"
    assert twin.state_dict()[name].equal(stored[name].float())
    assert config.heads == ()
