"""Two nodes on one host: an engine as node 0 starts it, and the agent of node 1 in a thread."""

import asyncio
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.engine.nodes.agent import Agent, NodeRefused
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.placement import place
from vlmoe_serve.placement.rebalancing import RebalanceOptions

from ...ports import free_port
from ...processes import children, command, descendants
from ...waiting import is_gone

Jobs = Callable[[int], list[Job]]
PATIENCE_S = 300.0


class Node:
    """Node 1, whose agent is a thread of this process."""

    def __init__(self, options: EngineOptions, where: Rendezvous) -> None:
        where = dataclasses.replace(where, node=1)
        self.agent = Agent(dataclasses.replace(options, rendezvous=where), where)
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.agent.run()
        except (NodeRefused, ValueError) as error:
            self.error = error

    def ranks(self) -> list[int]:
        """Processes of its ranks: children of this process that are no engine of a supervisor."""
        return [pid for pid in children(os.getpid()) if b"vlmoe_serve.engine.nodes.rank" in command(pid)]

    def end(self) -> None:
        self.agent.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def where(tmp_path: Path) -> Rendezvous:
    key = tmp_path / "key"
    key.write_text("a key of the group that nobody knows\n")
    return Rendezvous(2, 0, "127.0.0.1", free_port(), key)


@pytest.fixture
def make_node() -> Iterator[Callable[[EngineOptions, Rendezvous], Node]]:
    made: list[Node] = []

    def make(options: EngineOptions, where: Rendezvous) -> Node:
        made.append(Node(options, where))
        return made[-1]

    yield make
    for node in made:
        node.end()
        assert not node.ranks()


def with_engine(
    options: EngineOptions,
    use: Callable[[Supervisor], Coroutine[Any, Any, None]],
    *,
    hang_s: float = 120.0,
    on_restart: Callable[[str], None] = lambda how: None,
    on_report: Callable[[EngineReport], None] = lambda report: None,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            patient = SupervisorOptions(max_down_s=200, hang_s=hang_s, ping_s=0.1)
            supervisor = Supervisor(ENGINES["torch"], options, patient, on_restart, on_report)
            await supervisor.start()
            try:
                await use(supervisor)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def engine_options(checkpoint: Path, where: Rendezvous, ranks: int) -> EngineOptions:
    return EngineOptions(checkpoint, device="cpu", dtype="fp32", threads=1, ranks=ranks, rendezvous=where)


@pytest.mark.parametrize(
    ("num_ranks", "deaths"),
    [
        (2, False),
        pytest.param(2, True, marks=pytest.mark.slow),
        pytest.param(4, True, marks=pytest.mark.slow),
    ],
)
def test_nodes_answer_bit_for_bit_what_one_rank_answers(
    checkpoint: Path, jobs: Jobs, where: Rendezvous, make_node: Any, num_ranks: int, deaths: bool
) -> None:
    """Full batches, batches in which ranks have nothing to do, and after deaths of ranks of either node."""
    threads = torch.get_num_threads()
    work = jobs(11)
    expected = Runner.load(checkpoint, dtype="fp32", threads=1).run(work)
    torch.set_num_threads(threads)
    options = engine_options(checkpoint, where, num_ranks)
    node = make_node(options, where)

    async def check(supervisor: Supervisor) -> None:
        for chosen in (slice(None), slice(0, 1), slice(3, 6)):
            done = await supervisor.run(work[chosen])
            for block, answer in zip(done.outputs, expected[chosen], strict=True):
                np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)

    async def use(supervisor: Supervisor) -> None:
        await check(supervisor)
        assert node.agent.state.ready
        ranks = node.ranks()
        assert len(ranks) == num_ranks // 2
        if not deaths:
            return
        os.kill(ranks[-1], signal.SIGKILL)
        while not supervisor.num_restarts:
            await asyncio.sleep(0.01)
        await check(supervisor)
        assert all(map(is_gone, ranks))
        if num_ranks > 2:
            assert supervisor.pid is not None
            own = descendants(supervisor.pid)
            os.kill(own[0], signal.SIGKILL)
            while supervisor.num_restarts < 2:
                await asyncio.sleep(0.01)
            await check(supervisor)

    with_engine(options, use)
    end_s = time.monotonic() + PATIENCE_S
    while node.agent.state.ready:
        assert time.monotonic() < end_s, "node 1 does not know that node 0 is gone"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_batch_in_flight_survives_the_loss_of_a_whole_node(
    checkpoint: Path, jobs: Jobs, where: Rendezvous, make_node: Any
) -> None:
    options = engine_options(checkpoint, where, 2)
    first = make_node(options, where)

    async def use(supervisor: Supervisor) -> None:
        before = (await supervisor.run(jobs(6))).outputs
        first.end()
        while not supervisor.num_restarts:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(supervisor.run(jobs(6)))
        await asyncio.sleep(0.5)
        assert not supervisor.ready
        assert not waiting.done()
        make_node(options, where)
        assert (await waiting).outputs == before

    with_engine(options, use)


@pytest.mark.slow
def test_a_rank_of_another_node_that_hangs_while_idle_is_found(
    checkpoint: Path, jobs: Jobs, where: Rendezvous, make_node: Any
) -> None:
    options = engine_options(checkpoint, where, 2)
    node = make_node(options, where)
    restarts: list[str] = []

    async def use(supervisor: Supervisor) -> None:
        before = (await supervisor.run(jobs(6))).outputs
        (rank,) = node.ranks()
        os.kill(rank, signal.SIGSTOP)
        while not restarts:
            await asyncio.sleep(0.01)
        assert restarts == ["gave no answer for 5 s and was killed"]
        assert (await supervisor.run(jobs(6))).outputs == before
        assert is_gone(rank)

    with_engine(options, use, hang_s=5.0, on_restart=restarts.append)


@pytest.mark.slow
def test_a_placement_reaches_the_ranks_of_other_nodes(
    checkpoint: Path, jobs: Jobs, where: Rendezvous, make_node: Any
) -> None:
    """Node 1 is not given the file; experts lie the other way round, one of them twice."""
    options = engine_options(checkpoint, where, 2)
    make_node(options, where)
    threads = torch.get_num_threads()
    expected = Runner.load(checkpoint, dtype="fp32", threads=1).run(jobs(9))
    torch.set_num_threads(threads)
    ranks = ((2, 3, 6, 7, 0), (0, 1, 4, 5))
    placement = place((0, 2), (4, 4), (ranks, ranks), 5)

    async def use(supervisor: Supervisor) -> None:
        done = await supervisor.run(jobs(9))
        for block, answer in zip(done.outputs, expected, strict=True):
            np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)

    with_engine(dataclasses.replace(options, placement=placement), use)


@pytest.mark.slow
def test_experts_move_between_nodes_while_answers_stay(
    checkpoint: Path, jobs: Jobs, where: Rendezvous, make_node: Any
) -> None:
    """Pictures alone, whose experts all lie on node 0 until they move. Node 1 learns of it from node 0."""
    work = [job for job in jobs(24) if job.example.tokens is None]
    threads = torch.get_num_threads()
    expected = Runner.load(checkpoint, dtype="fp32", threads=1).run(work)
    torch.set_num_threads(threads)
    start = place((0, 2), (4, 4), [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2, 6)
    costs = Costs(token_us=1.0, expert_us=0.0, near_us=0.0, far_us=0.0)
    eager = RebalanceOptions(min_steps=8, interval_s=0.1)
    options = engine_options(checkpoint, where, 2)
    make_node(options, where)
    reports: list[EngineReport] = []

    async def use(supervisor: Supervisor) -> None:
        while not any(each.moves.num_moved for each in reports):
            done = await supervisor.run(work)
            for block, answer in zip(done.outputs, expected, strict=True):
                np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)
        assert supervisor.num_restarts == 0

    moving = dataclasses.replace(options, placement=start, rebalance=eager, costs=costs)
    with_engine(moving, use, on_report=reports.append)


def test_a_node_with_another_checkpoint_or_key_is_refused_and_node_0_says_who_is_missing(
    checkpoint: Path,
    make_checkpoint: Callable[[int], Path],
    where: Rendezvous,
    make_node: Any,
    tmp_path: Path,
) -> None:
    impatient = dataclasses.replace(where, patience_s=6.0)
    options = engine_options(checkpoint, impatient, 2)
    other = make_node(dataclasses.replace(options, path=make_checkpoint(1)), where)
    key = tmp_path / "other-key"
    key.write_text("another key that is long enough")
    stranger = make_node(options, dataclasses.replace(where, key_file=key))
    while other.error is None or stranger.error is None:
        # again, where a crowded machine lets nobody come in time
        with pytest.raises(EngineStartError, match=r"node 1 of 2 did not come to 127.0.0.1:\d+ within 6 s"):
            asyncio.run(Supervisor(ENGINES["torch"], options).start())
    other.end()
    stranger.end()
    assert isinstance(other.error, NodeRefused)
    assert str(other.error).startswith("node 1 was refused: the checkpoint is m-")
    assert "\n" not in str(other.error)
    assert str(stranger.error) == "the key of the rendezvous is another one there"
