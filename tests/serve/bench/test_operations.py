import itertools

import pytest
import torch

from vlmoe_kernels import backend
from vlmoe_serve.bench.cases import batch
from vlmoe_serve.bench.networks import Model, encode
from vlmoe_serve.bench.operations import ATTENTION, MIXTURES, NAMES, OTHERS, REST, ROUTING, Spy, table, watch

CASES = ("image1", "text32", "pair8")


def test_seconds_add_up():
    ticks = itertools.count()
    spy = Spy(lambda: float(next(ticks)))
    attend = spy.timed(lambda x: x + 1, ATTENTION)
    turn = spy.turn(lambda: attend(attend(0)))
    # two calls of one tick, and ticks between
    assert turn[ATTENTION] == 2.0
    assert turn[REST] == 3.0
    assert sum(turn.values()) == 5.0
    assert set(turn) == set(NAMES)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_a_watched_network_answers_as_before_and_everything_takes_time(config, case):
    model = Model(config, None, balanced=True)
    weights = model.weights(torch.float32)
    packed = batch(case, config)
    for dense in (False, True):
        expected = encode(model.network(backend("cpu"), torch.float32, weights, dense=dense), packed)
        network = model.network(backend("cpu"), torch.float32, weights, dense=dense)
        spy = watch(network, config.moe_blocks)
        found = []
        turn = spy.turn(lambda network=network, found=found: found.append(encode(network, packed)))
        assert torch.equal(found[0], expected)
        assert min(turn[name] for name in NAMES if name != ROUTING) > 0
        assert (turn[ROUTING] > 0) is not dense


def test_the_table_has_a_line_for_every_operation(config):
    lines = list(table(Model(config, None, balanced=True), "fp32", ["image1", "text32"], seconds=0.01))
    names = [line[:24].strip() for line in lines]
    assert names == ["image1 fp32", *NAMES, "all", "text32 fp32", *NAMES, "all"]
    assert lines[-1].split()[-2] == "MoE/dense"
    mixtures, others = (next(line for line in lines if line.startswith(name)) for name in (MIXTURES, OTHERS))
    assert len(mixtures.split()) == len(others.split()) == 5
