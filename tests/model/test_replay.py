"""Recordings of the encoder against the encoder: layouts anywhere, playing under the interpreter and on a GPU."""

import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_kernels import backend
from vlmoe_model.config import ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack
from vlmoe_model.replay import MAX_TOKENS, Layout, Replay, Size, sizes
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_model.runner import Runner

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]

# A recording that is played by running the forward pass again: what lies behind the last token is there all the same.
ANSWER = """
import dataclasses, pickle, sys, torch
from vlmoe_kernels import backend
from vlmoe_model.replay import Replay
from vlmoe_model.runner import Runner
batches = pickle.load(sys.stdin.buffer)
runner = Runner.load(sys.argv[1], device="cpu", dtype="fp32", backend="triton")
network = runner.network
plain = [runner.run(jobs) for jobs in batches]
plays = []
def record(forward):
    plays.append(forward)
    return forward
network.replay = Replay.of(
    network.encoder, runner.config, backend("triton"), torch.device("cpu"), record
)
network.replay._x_TD.fill_(torch.nan)
played = [runner.run(jobs) for jobs in batches]
# counted by the device: of both
((_, rows, steps),) = network.take_load()
assert [*network.take_load()] == [(1, [0] * len(rows), 0)]
counted = []
network.observe_load(lambda block, sizes, flow: counted.append(sizes))
for jobs in batches:
    runner.run([dataclasses.replace(job, explain=True) for job in jobs])
assert rows == [2 * sum(column) for column in zip(*counted)], (rows, counted)
assert 0 < steps == 2 * sum(any(sizes) for sizes in counted) < 2 * len(batches), steps

def refuse(forward):
    raise RuntimeError("no recordings here")
network.replay = Replay.of(
    network.encoder, runner.config, backend("triton"), torch.device("cpu"), refuse
)
refused = [runner.run(jobs) for jobs in batches]
sys.stdout.buffer.write(pickle.dumps((plain, played, refused, len(plays))))
"""


@pytest.fixture
def path(config: ModelConfig, build_network: Callable[..., VLMoE], saved: Callable[..., Path]) -> Path:
    return saved(state=build_network(config).state_dict())


@pytest.fixture
def batches(config: ModelConfig, mixed_jobs: Callable[[ModelConfig], list[Job]]) -> list[list[Job]]:
    """All together, a large one after a small one and the reverse, and one alone."""
    jobs = mixed_jobs(config)
    return [jobs, jobs[:1], jobs[3:6], jobs, jobs[2:3]]


def test_sizes_grow_by_an_eighth_at_most() -> None:
    found = sizes()
    assert (found[0].tokens, found[-1].tokens) == (16, MAX_TOKENS)
    for small, large in itertools.pairwise(found):
        assert large.tokens - small.tokens <= max(16, small.tokens / 8)
        assert small.tiles <= large.tiles
        assert small.tokens % 16 == 0


def test_what_is_written_is_read(config: ModelConfig, batches: list[list[Job]]) -> None:
    layout = Layout(Size(208, 52))
    words = torch.full((layout.num_words,), 77)
    for jobs in batches:
        packed = pack(jobs, config)
        num_tokens, table = packed.num_tokens, np.arange(8, dtype=np.int64).reshape(2, 4)
        layout.write(words.numpy(), packed, table)
        found = layout.read(words)
        assert found.table is not None
        assert found.table[:2].tolist() == table.tolist()
        assert not found.table[2:].any()
        for tokens, expected in ((found.modality, packed.modality), (found.fused, packed.fused)):
            assert torch.equal(tokens.pool_T[:num_tokens], expected.pool_T)
            assert (tokens.pool_T[num_tokens:] == -1).all()
            assert torch.equal(tokens.onehot_TP[:num_tokens], expected.onehot_TP)
            assert torch.equal(tokens.plan.order_R[:num_tokens], expected.plan.order_R)
            assert torch.equal(tokens.plan.slots_TK[:num_tokens], expected.plan.slots_TK)
            assert tokens.plan.offsets is not None
            assert tokens.plan.offsets.diff().tolist() == list(expected.plan.sizes)


def test_a_network_on_the_cpu_has_no_recordings(path: Path) -> None:
    assert Runner.load(path, device="cpu", dtype="fp32", backend="eager")._network.replay is None


@pytest.mark.parametrize("changes", [{"relative_position": True}, {"capacity_eval": 1.0}])
def test_what_cannot_be_recorded_is_not(
    config: ModelConfig, build_network: Callable[..., VLMoE], changes: dict[str, object]
) -> None:
    config = dataclasses.replace(config, **changes)
    network = build_network(config)
    network.pack(backend("eager"), torch.float32)
    assert Replay.of(network.encoder, config, backend("eager"), torch.device("cpu"), lambda f: f) is None


def test_padding_changes_no_bit(path: Path, batches: list[list[Job]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, path],
        input=pickle.dumps(batches),
        capture_output=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("launches are not recorded from here on: no recordings here") == 1
    plain, played, refused, num_recordings = pickle.loads(done.stdout)
    # as many as there are sizes of batches
    assert num_recordings == 3
    for expected, *found in zip(plain, played, refused, strict=True):
        for one, *others in zip(expected, *found, strict=True):
            assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("flags", [{}, {"sub_ln": True, "multiway_attention": True, "top_k": 2}])
@pytest.mark.parametrize("mark", [pytest.param(None, marks=on_gpu)])
def test_a_recording_has_the_bits_of_what_it_recorded(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    batches: list[list[Job]],
    dtype: str,
    flags: dict[str, object],
    mark: None,
) -> None:
    config = dataclasses.replace(config, **flags)
    path = saved(config=config, state=build_network(config).state_dict())
    runner = Runner.load(path, device="cuda", dtype=dtype)
    network = runner.network
    assert network.replay is not None
    runner.prepare()
    played = [runner.run(jobs) for jobs in batches]
    in_mode = [dataclasses.replace(job, mode=RoutingMode(top_k=1)) for job in batches[0]]
    limited = runner.run(in_mode)
    network.replay = None
    for jobs, found in [*zip(batches, played, strict=True), (in_mode, limited)]:
        for one, other in zip(runner.run(jobs), found, strict=True):
            assert np.array_equal(one, other)
