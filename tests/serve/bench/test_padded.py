import torch

from vlmoe_serve.bench.cases import batch
from vlmoe_serve.bench.networks import Model, encode
from vlmoe_serve.bench.padded import Masked, encode_padded
from vlmoe_serve.bench.stock import Sorted


def test_padding_changes_no_state(config):
    model, dtype = Model(config, None, False), torch.float32
    weights, backend = model.weights(dtype), Masked()
    packed_one, padded_one = model.network(Sorted(), dtype, weights), model.network(backend, dtype, weights)
    # the second batch has nothing to pad: the first one's mask must be forgotten
    for case in ("ragged", "image8", "pair8"):
        packed = batch(case, config)
        with torch.inference_mode():
            padded = encode_padded(padded_one, backend, packed)
            torch.testing.assert_close(padded, encode(packed_one, packed), rtol=1e-4, atol=1e-4)


def test_every_sequence_is_computed_at_the_length_of_the_longest(config):
    packed, seen = batch("ragged", config), []
    model, backend = Model(config, None, False), Masked()
    network = model.network(backend, torch.float32, model.weights(torch.float32))
    network.encoder.blocks[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[0])
    )
    with torch.inference_mode():
        encode_padded(network, backend, packed)
    assert seen == [24 * max(run.length for run in packed.runs)]
