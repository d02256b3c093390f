"""Experts move between ranks, and answers keep the bits of one rank."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vlmoe_kernels.collectives import Group
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.errors import CheckpointError
from vlmoe_model.inputs import Job
from vlmoe_model.moving import ExpertMover
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner

ALL = (0, 1, 2, 3)
# of both mixtures in turn: copies, everything on one rank, and even shares again
CHANGES = [
    (0, (((0, 1, 3), ALL), ((1, 2), (3,)))),
    (1, (((), ()), (ALL, ALL))),
    (0, ((ALL, ALL), (ALL, ()))),
    (1, (((0, 1), (0, 1)), ((2, 3), (2, 3)))),
    (0, (((0, 1), (0, 1)), ((2, 3), (2, 3)))),
]


@pytest.mark.parametrize(("dtype", "backend"), [("fp32", "auto"), ("bf16", "auto"), ("fp32", "cpu")])
def test_answers_stay_while_experts_move(
    in_group,
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    saved: Callable[..., Path],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
    dtype: str,
    backend: str,
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1))
    path = saved(state=build_network(config).state_dict(), config=config)
    jobs = mixed_jobs(config)
    expected = Runner.load(path, dtype=dtype, backend=backend).run(jobs)

    def work(group: Group) -> list[int]:
        runner = Runner.load(path, dtype=dtype, backend=backend, group=group, movable=True)
        mover = ExpertMover(runner)
        read: list[int] = []
        for block, held in [(0, Holdings.even(config, 2).layers[0]), *CHANGES]:
            read.append(0)

            def pace(num_bytes: int) -> None:
                read[-1] += num_bytes

            mover.switch(mover.prepare(block, held, pace))
            for answer, whole in zip(
                runner.run(jobs[group.rank :: 2]), expected[group.rank :: 2], strict=True
            ):
                assert np.array_equal(answer, whole)
            here = runner.mixture(block).experts
            assert here is not None
            assert set(here) - {("VL", 0)} == {
                (name, expert)
                for name, experts in zip("VT", held[group.rank], strict=True)
                for expert in experts
            }
        return read

    expert = 4 * (16 * 8 + 16 + 8 * 16 + 8)
    first, second = in_group(2, work)
    assert first == [0, 3 * expert, 0, expert, 4 * expert, 0]
    assert second == [0, expert, 4 * expert, 2 * expert, 0, 2 * expert]


def test_weights_that_were_replaced_are_not_mixed_in(
    in_group, config: ModelConfig, build_network: Callable[..., VLMoE], saved: Callable[..., Path]
) -> None:
    path = saved(state=build_network(config).state_dict())

    def work(group: Group) -> None:
        holdings = Holdings({1: ((ALL, ALL),)})
        mover = ExpertMover(Runner.load(path, dtype="fp32", group=group, holdings=holdings, movable=True))
        file = path / "model.safetensors"
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="the weights were replaced"):
            mover.prepare(1, (((*ALL, 4), ALL),))
        file.unlink()
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            mover.prepare(1, (((*ALL, 4), ALL),))

    in_group(1, work)
