import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.quantize import quantise_experts
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.engine import ENGINES
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.failures import EngineStartError
from vlmoe_serve.engine.ranks import share_out
from vlmoe_serve.engine.report import EngineReport, ExpertLoad
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import at_ranks
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.rebalancing import RebalanceOptions
from vlmoe_serve.placement.trace_format import COLUMNS
from vlmoe_serve.placement.trace_reader import read_trace

IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=3,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=4,
    max_text=12,
    moe_blocks=(0, 2),
    num_experts=4,
    vl_start=2,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=IMAGE, max_text=12),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    tokenizer = train_wordpiece(["what shape is in the image", "is there a red circle"], 100)
    save(directory, CONFIG, VLMoE(CONFIG).state_dict(), tokenizer, {"questions": ["yes", "no", "circle"]})
    return directory


def jobs(num: int) -> list[Job]:
    """Pairs, images and texts of several lengths."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(num):
        image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        text = np.array([2, *rng.integers(5, 60, index % 5), 3], np.int32)
        made.append(
            (
                Job("questions", Example(image, text)),
                Job("matching", Example(image=image)),
                Job("matching", Example(tokens=text)),
            )[index % 3]
        )
    return made


def placed(num_ranks: int) -> Placement:
    """Copies; of the second mixture some ranks hold nothing."""
    ranks = {
        2: ([[0, 1, 3, 4, 5, 6, 7], [1, 2, 3, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7], []]),
        3: ([[0, 1, 4, 5], [1, 2, 5, 6], [3, 0, 7]], [[0, 1, 2, 3], [], [4, 5, 6, 7]]),
        4: ([[0, 4], [1, 5, 0], [2, 6, 4], [3, 7]], [[0, 1, 2, 3], [], [4, 5, 6, 7], [0, 1]]),
    }
    return place((0, 2), (4, 4), ranks[num_ranks], 8)


def with_ranks(
    checkpoint: Path,
    num_ranks: int,
    use: Callable[[Supervisor], Coroutine[Any, Any, None]],
    on_report: Callable[[EngineReport], None] = lambda report: None,
    **more: Any,
) -> None:
    async def main() -> None:
        how = {"device": "cpu", "dtype": "fp32", "threads": 1, "ranks": num_ranks, **more}
        options = EngineOptions(checkpoint, **how)
        async with asyncio.timeout(240):
            patient = SupervisorOptions(max_down_s=200, ping_s=1.0)
            supervisor = Supervisor(ENGINES["torch"], options, patient, on_report=on_report)
            await supervisor.start()
            try:
                await use(supervisor)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def children_of(pid: int | None) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(pids: list[int]) -> None:
    give_up_s = time.monotonic() + 60
    while not all(map(is_gone, pids)):
        assert time.monotonic() < give_up_s, "a rank outlived rank 0"
        time.sleep(0.01)


def test_sequences_are_shared_out_by_their_tokens() -> None:
    """Patches of 4 pixels: an image is 17 tokens; six images and six texts over two ranks, then over four."""
    work = jobs(12)
    tokens = [
        (17 if j.example.image is not None else 0)
        + (0 if j.example.tokens is None else len(j.example.tokens))
        for j in work
    ]
    for num_ranks in (1, 2, 4):
        shares = share_out(work, num_ranks, CONFIG)
        assert sorted(index for share in shares for index in share) == list(range(12))
        assert all(share == sorted(share) for share in shares)
        loads = [sum(tokens[i] for i in share) for share in shares]
        assert max(loads) - min(loads) <= max(tokens)
    assert share_out(work[:1], 3, CONFIG) == [[0], [], []]
    assert share_out([], 2, CONFIG) == [[], []]


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


def test_the_trace_of_several_ranks_is_that_of_one_and_so_is_the_load(
    checkpoint: Path, tmp_path: Path
) -> None:
    work = jobs(9)
    loads: dict[int, ExpertLoad] = {}

    def run(num_ranks: int) -> list[tuple[object, ...]]:
        async def use(supervisor: Supervisor) -> None:
            for chosen in (slice(None), slice(0, 1), slice(3, 6)):
                await supervisor.run(work[chosen])
            # two mixtures of three batches, less one: the second batch is a pair, which the last mixture does not route
            while num_ranks not in loads or loads[num_ranks].num_layers < 5:
                await asyncio.sleep(0.05)

        def add(report: EngineReport) -> None:
            assert report.load is not None
            assert len(report.memory_G) == num_ranks
            assert min(report.memory_G) > 1 << 20
            before = loads.get(num_ranks)
            loads[num_ranks] = report.load if before is None else before.plus(report.load)

        directory = tmp_path / str(num_ranks)
        with_ranks(checkpoint, num_ranks, use, add, trace_dir=directory)
        (file,) = directory.glob("*.parquet")
        columns = pq.read_table(file).to_pydict()
        assert len(set(columns["rank"])) == num_ranks
        for name in ("step", "request"):
            first = min(columns[name])
            columns[name] = [number - first for number in columns[name]]
        return sorted(
            zip(*(columns[name] for name in COLUMNS if name not in ("time_us", "rank")), strict=True)
        )

    alone = run(1)
    assert run(2) == alone
    assert loads[1].tokens_LX.tolist() == loads[2].tokens_LX.tolist()
    assert loads[1].tokens_LX.sum() == len(alone)
    assert loads[2].rank_tokens_G.sum() == len(alone)
    assert loads[2].ratio >= loads[2].num_layers == 5
    assert loads[1].all_to_all_bytes == 0
    # at least one token, of 16 numbers of 4 bytes, there and back
    assert loads[2].all_to_all_bytes % (2 * 64) == 0
    assert loads[2].all_to_all_bytes > 0
    assert {row[0] for row in alone} == {0, 1, 2}
    # a single sequence has one home
    assert (at_ranks(read_trace(tmp_path / "2"), 2).home_SG > 0).sum(axis=1).tolist() == [2, 1, 2]


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
    eager = RebalanceOptions(min_steps=8, interval_s=0.1, at_once=at_once, costs=costs)

    async def use(supervisor: Supervisor) -> None:
        num_steps = 0
        while num_steps < 12 or not any(each.moves.num_moved for each in reports):
            done = await supervisor.run(work)
            for block, answer in zip(done.outputs, expected, strict=True):
                np.testing.assert_array_equal(np.frombuffer(block, np.float32), answer)
            num_steps += 1
        assert supervisor.num_restarts == 0

    with_ranks(checkpoint, 2, use, reports.append, placement=start, rebalance=eager)
    loads = [each.load for each in reports if each.load is not None]
    assert loads[0].rank_tokens_G[1] == 0 or len(loads) == 1


def test_the_death_of_an_idle_rank_restarts_the_group(checkpoint: Path) -> None:
    work = jobs(6)

    async def use(supervisor: Supervisor) -> None:
        before = (await supervisor.run(work)).outputs
        (rank,) = children_of(supervisor.pid)
        os.kill(rank, signal.SIGKILL)
        while not supervisor.num_restarts:
            await asyncio.sleep(0.01)
        assert (await supervisor.run(work)).outputs == before
        assert children_of(supervisor.pid) != [rank]

    with_ranks(checkpoint, 2, use)


def test_a_rank_that_hangs_while_idle_is_found(checkpoint: Path) -> None:
    work = jobs(6)
    restarts: list[str] = []

    async def main() -> None:
        options = EngineOptions(checkpoint, device="cpu", dtype="fp32", threads=1, ranks=2)
        watchful = SupervisorOptions(max_down_s=200, hang_s=5, ping_s=0.1)
        supervisor = Supervisor(ENGINES["torch"], options, watchful, restarts.append)
        async with asyncio.timeout(240):
            await supervisor.start()
            try:
                before = (await supervisor.run(work)).outputs
                (rank,) = children_of(supervisor.pid)
                os.kill(rank, signal.SIGSTOP)
                while not restarts:
                    await asyncio.sleep(0.01)
                assert restarts == ["gave no answer for 5 s and was killed"]
                assert (await supervisor.run(work)).outputs == before
                assert is_gone(rank)
            finally:
                await supervisor.stop()

    asyncio.run(main())


def test_no_rank_outlives_rank_0(checkpoint: Path) -> None:
    async def use(supervisor: Supervisor) -> None:
        ranks = children_of(supervisor.pid)
        assert len(ranks) == 1
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await asyncio.to_thread(wait_gone, ranks)

    with_ranks(checkpoint, 2, use)


def test_a_bad_placement_ends_all_ranks_with_one_line(checkpoint: Path) -> None:
    options = EngineOptions(checkpoint, device="cpu", dtype="fp32", ranks=2, placement=placed(3))
    with pytest.raises(EngineStartError, match="experts are placed on 3 ranks, there are 2") as error:
        asyncio.run(Supervisor(ENGINES["torch"], options).start())
    assert "\n" not in str(error.value)


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
