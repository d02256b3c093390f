import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load, synthetic_meta, synthetic_rows
from vlmoe_serve.placement.trace_format import TraceError, TraceMeta, read_meta
from vlmoe_serve.placement.trace_reader import read_trace
from vlmoe_serve.placement.trace_writer import TraceWriter, WriterOptions

SPEC = Synthetic(num_steps=6, tokens_per_step=1500, num_layers=2, num_experts=6)
META = synthetic_meta(SPEC)
ROWS = list(synthetic_rows(SPEC))
NUM_ROWS = sum(map(len, ROWS))


class Clock:
    """A clock that is told the time."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def sizes(directory: Path) -> list[int]:
    return [path.stat().st_size for path in sorted(directory.glob("*.parquet"))]


def test_what_was_added_is_read(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "new" / "trace", META)
    for rows in ROWS:
        writer.add(rows)
    writer.close()
    load = read_trace(tmp_path / "new" / "trace")
    np.testing.assert_array_equal(load.counts_QLX, synthetic_load(SPEC).counts_QLX)
    assert writer.num_dropped == 0


def test_a_full_buffer_and_an_old_one_become_files(tmp_path: Path) -> None:
    clock = Clock()
    options = WriterOptions(rows_per_file=2 * NUM_ROWS, seconds_per_file=60.0)
    writer = TraceWriter(tmp_path, META, options, clock)
    writer.add(ROWS[0])
    clock.now_s = 59.0
    writer.add(ROWS[1])
    clock.now_s = 61.0
    writer.add(ROWS[2])
    writer.add(ROWS[3])
    writer.close()
    assert len(sizes(tmp_path)) == 2, "one a minute, and the rest at the end"


def test_who_adds_never_waits_and_what_is_lost_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = WriterOptions(rows_per_file=len(ROWS[0]))
    writer = TraceWriter(tmp_path, META, options)
    with caplog.at_level(logging.WARNING):
        for _ in range(300):
            for rows in ROWS:
                writer.add(rows)
    writer.close()
    written = int(read_trace(tmp_path).counts_QLX.sum())
    assert written + writer.num_dropped == 300 * NUM_ROWS
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "rows come faster than they are written; some are lost"
    ]


def test_the_oldest_files_go(tmp_path: Path) -> None:
    def record(max_bytes: int) -> None:
        for rows in ROWS[:4]:
            writer = TraceWriter(tmp_path, META, WriterOptions(max_bytes=max_bytes))
            writer.add(rows)
            writer.close()

    record(1 << 30)
    all_sizes = sizes(tmp_path)
    assert len(all_sizes) == 4
    record(sum(all_sizes))
    assert len(sizes(tmp_path)) < 8
    assert sum(sizes(tmp_path)) <= sum(all_sizes)
    record(1)
    assert len(sizes(tmp_path)) == 1, "the newest stays, however large"


def test_recordings_with_other_numbers_of_ranks_say_nothing_of_homes(tmp_path: Path) -> None:
    for ranks, said in ((1, 1), (1, 1), (4, 0), (4, 0), (1, 0)):
        TraceWriter(tmp_path, replace(META, num_ranks=ranks)).close()
        assert read_meta(tmp_path) == replace(META, num_ranks=said)


def test_another_models_trace_is_not_mixed_in(tmp_path: Path) -> None:
    TraceWriter(tmp_path, META).close()
    TraceWriter(tmp_path, META).close()
    with pytest.raises(TraceError, match="holds the trace of another model \\(synthetic\\)"):
        TraceWriter(tmp_path, TraceMeta("m-2", META.layers, META.pools, 1))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match="cannot be written to"):
        TraceWriter(tmp_path / "file" / "trace", META)


def test_a_write_that_fails_does_not_stop_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = TraceWriter(tmp_path / "trace", META)
    writer.add(ROWS[0])
    (tmp_path / "trace").rename(tmp_path / "gone")
    with caplog.at_level(logging.WARNING):
        writer.close()
    assert "not written" in caplog.text
