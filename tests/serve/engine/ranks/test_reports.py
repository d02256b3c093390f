"""Several ranks trace and report what one does."""

import asyncio
from pathlib import Path

import pyarrow.parquet as pq

from vlmoe_serve.engine.report import EngineReport, ExpertLoad
from vlmoe_serve.engine.supervisor import Supervisor
from vlmoe_serve.placement.load import at_ranks
from vlmoe_serve.placement.trace_format import COLUMNS
from vlmoe_serve.placement.trace_reader import read_trace

from ..tiny import jobs
from .groups import with_ranks


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
