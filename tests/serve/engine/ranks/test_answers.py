"""Several ranks answer what one answers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.network import VLMoE
from vlmoe_model.quantize import quantise_experts
from vlmoe_model.runner import Runner
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.placement.placement import Placement

from ..tiny import CONFIG, jobs
from .groups import children_of, placed, with_ranks


@pytest.mark.parametrize(
    ("num_ranks", "placement"),
    [
        (2, None),
        (2, placed(2)),
        pytest.param(3, placed(3), marks=pytest.mark.slow),
        pytest.param(4, None, marks=pytest.mark.slow),
        pytest.param(4, placed(4), marks=pytest.mark.slow),
    ],
    ids=["2", "2-placed", "3-placed", "4", "4-placed"],
)
def test_ranks_answer_bit_for_bit_what_one_rank_answers(
    checkpoint: Path, num_ranks: int, placement: Placement | None
) -> None:
    """Full batches, and batches in which ranks have nothing to do."""
    threads = torch.get_num_threads()
    work = jobs(11)
    expected = Runner.load(checkpoint, dtype="fp32", threads=1).run(work)
    torch.set_num_threads(threads)

    async def use(supervisor: Supervisor) -> None:
        for chosen in (slice(None), slice(0, 1), slice(3, 6)):
            done = await supervisor.run(work[chosen])
            for block, answer in zip(done.outputs, expected[chosen], strict=True):
                np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)
        assert len(children_of(supervisor.pid)) == num_ranks - 1
        assert supervisor.info.num_parameters == sum(p.numel() for p in VLMoE(CONFIG).parameters())

    with_ranks(checkpoint, num_ranks, use, placement=placement)


@pytest.mark.parametrize("stored", ["float", "int8"])
def test_experts_in_int8_answer_over_ranks_as_alone(checkpoint: Path, tmp_path: Path, stored: str) -> None:
    """Quantised when they are loaded, and stored so."""
    if stored == "int8":
        quantise_experts(open_directory(checkpoint), tmp_path / "small")
        checkpoint = tmp_path / "small"
    dtype = "int8" if stored == "float" else "auto"
    expected = Runner.load(checkpoint, dtype=dtype, threads=1).run(jobs(7))

    async def use(supervisor: Supervisor) -> None:
        assert supervisor.info.dtype == "int8"
        done = await supervisor.run(jobs(7))
        for block, answer in zip(done.outputs, expected, strict=True):
            np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)

    with_ranks(checkpoint, 2, use, dtype=dtype, placement=placed(2))
