"""Experts that move from rank to rank."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_model.runner import Runner
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import place
from vlmoe_serve.placement.rebalancing import RebalanceOptions

from ..tiny import jobs
from .groups import children_of, with_ranks


def check_cores(pid: int | None) -> None:
    """Each rank is on its share of the cores or, where those are crowded, on any; the process that plans is on any."""
    assert pid is not None
    host = os.sched_getaffinity(0)
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children_of(pid)}
    (planning,) = (child for child, command in commands.items() if "engine.planning" in command)
    (other,) = (child for child, command in commands.items() if "engine.rank" in command)
    assert os.sched_getaffinity(planning) == host
    for rank, process in enumerate((pid, other)):
        # what a topology says may differ, the sizes do not
        share = (len(host) + 1 - rank) // 2 if len(host) > 1 else len(host)
        assert len(os.sched_getaffinity(process)) in (share, len(host))


@pytest.mark.parametrize("at_once", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_experts_move_while_answers_stay(checkpoint: Path, at_once: bool) -> None:
    """Pictures alone: rank 0 holds more of what they ask for than rank 1, until it has moved."""
    work = [job for job in jobs(24) if job.example.tokens is None]
    threads = torch.get_num_threads()
    expected = Runner.load(checkpoint, dtype="fp32", threads=1).run(work)
    torch.set_num_threads(threads)
    reports: list[EngineReport] = []
    # all the experts for pictures on one rank, and as if nothing but computing took time
    start = place((0, 2), (4, 4), [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2, 6)
    costs = Costs(token_us=1.0, expert_us=0.0, near_us=0.0, far_us=0.0)
    eager = RebalanceOptions(min_steps=8, interval_s=0.1, at_once=at_once)

    async def use(supervisor: Supervisor) -> None:
        num_steps = 0
        while num_steps < 12 or not any(each.moves.num_moved for each in reports):
            done = await supervisor.run(work)
            for block, answer in zip(done.outputs, expected, strict=True):
                np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)
            num_steps += 1
        assert supervisor.num_restarts == 0
        check_cores(supervisor.pid)

    with_ranks(checkpoint, 2, use, reports.append, placement=start, rebalance=eager, costs=costs)
    loads = [each.load for each in reports if each.load is not None]
    assert loads[0].rank_tokens_G[1] == 0 or len(loads) == 1
