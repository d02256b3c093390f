"""Ranks that need all cores have some each; others have any."""

import asyncio
import os
from pathlib import Path

import pytest

from vlmoe_serve.engine.own_cores import own_cores
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.placement.rebalancing import RebalanceOptions

from .ranks.groups import children_of, placed, with_ranks


def test_ranks_share_out_the_cores() -> None:
    assert [own_cores(rank, 2, 2, {4, 1, 9, 8}) for rank in range(2)] == [{1, 4}, {8, 9}]
    assert own_cores(0, 1, 4, {0, 1, 2, 3}) is None
    assert own_cores(0, 2, 1, {0, 1, 2, 3}) is None, "some are left over"
    assert own_cores(0, 4, 1, {0, 1}) is None, "there are too few"


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and Linux",
)
def test_each_rank_stays_on_its_own_and_who_plans_does_not(checkpoint: Path) -> None:
    before = os.sched_getaffinity(0)
    cores = set(sorted(before)[:2])

    async def use(supervisor: Supervisor) -> None:
        assert supervisor.pid is not None
        rank, planning = children_of(supervisor.pid)
        held = [os.sched_getaffinity(pid) for pid in (supervisor.pid, rank)]
        assert held == [{min(cores)}, {max(cores)}]
        # it sets them itself, once it runs
        async with asyncio.timeout(60):
            while os.sched_getaffinity(planning) != cores:
                await asyncio.sleep(0.02)

    os.sched_setaffinity(0, cores)
    try:
        with_ranks(checkpoint, 2, use, placement=placed(2), rebalance=RebalanceOptions())
    finally:
        os.sched_setaffinity(0, before)
