"""Traces of our writer and of others, and what is wrong with bad ones."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from vlmoe_serve.placement.load import Load
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load, synthetic_meta, synthetic_rows
from vlmoe_serve.placement.trace_format import COLUMNS, META
from vlmoe_serve.placement.trace_reader import TraceError, read_trace

SPEC = Synthetic(num_steps=5, tokens_per_step=1500, num_layers=2, num_experts=6)


def table() -> pa.Table:
    rows = list(synthetic_rows(SPEC))
    return pa.table({name: np.concatenate([getattr(each, name) for each in rows]) for name in COLUMNS})


def directory(path: Path) -> Path:
    (path / META).write_text(synthetic_meta(SPEC).to_json())
    return path


def assert_same(load: Load, expected: Load) -> None:
    assert (load.layers, load.pools, load.num_ranks) == (expected.layers, expected.pools, expected.num_ranks)
    for name in ("step_Q", "tokens_Q", "counts_QLX", "rank_Q"):
        np.testing.assert_array_equal(getattr(load, name), getattr(expected, name), err_msg=name)


def test_parquet_and_arrow_say_the_same(tmp_path: Path) -> None:
    whole = table()
    for name in ("parquet", "file.arrow", "stream.arrow"):
        folder = directory(tmp_path_of(tmp_path, name))
        if name == "parquet":
            pq.write_table(whole, folder / "a.parquet", row_group_size=7000)
        else:
            opened = pa.ipc.new_file if name.startswith("file") else pa.ipc.new_stream
            with opened(str(folder / "a.arrow"), whole.schema) as writer:
                writer.write_table(whole, max_chunksize=7000)
        assert_same(read_trace(folder), synthetic_load(SPEC))


def test_files_may_be_cut_anywhere_and_rows_lie_in_any_order(tmp_path: Path) -> None:
    shuffled = table().take(np.random.default_rng(0).permutation(len(table())))
    for number, begin in enumerate(range(0, len(shuffled), 9000)):
        pq.write_table(shuffled.slice(begin, 9000), directory(tmp_path) / f"{number}.parquet")
    assert_same(read_trace(tmp_path), synthetic_load(SPEC))


def test_other_writers_may_use_other_widths_more_columns_and_no_meta(tmp_path: Path) -> None:
    whole = table()
    wide = pa.table(
        {name: whole[name].cast(pa.int64()) for name in reversed(COLUMNS) if name != "gate"}
        | {"gate": pa.array(np.ones(len(whole), np.float32)), "comment": ["x"] * len(whole)}
    )
    pq.write_table(wide, tmp_path / "theirs.parquet")
    assert_same(read_trace(tmp_path), synthetic_load(SPEC))


def test_steps_need_not_count_from_nought(tmp_path: Path) -> None:
    whole = table()
    late = whole.set_column(0, "step", pa.array(np.asarray(whole["step"]) * 1000 + 5))
    pq.write_table(late, directory(tmp_path) / "a.parquet")
    assert_same(read_trace(tmp_path), synthetic_load(SPEC))


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("expert", 6, "names expert 6 of a pool of 6 experts"),
        ("expert", -1, "expert must be from 0, got -1"),
        ("modality", 2, "modality must be in 0 .. 1, got 2"),
        ("layer", 2, "names layer 2; the trace's are [1, 3]"),
        ("layer", 9, "names layer 9; the trace's are [1, 3]"),
        ("rank", 1, "rank must be in 0 .. 0, got 1"),
        ("token", -3, "token must be from 0, got -3"),
        ("step", None, "column 'step' has empty cells"),
        ("expert", 1 << 20, "column 'expert' must be int16"),
        ("request", "seven", "column 'request' must be int64"),
        ("gate", "high", "column 'gate' must hold numbers"),
    ],
)
def test_a_bad_value_is_one_line_with_the_files_name(
    tmp_path: Path, column: str, value: object, complaint: str
) -> None:
    whole = table().slice(0, 100)
    cells = whole[column].to_pylist()
    if isinstance(value, str):
        cells = [str(each) for each in cells]
    cells[40] = value
    bad = whole.set_column(whole.schema.get_field_index(column), column, pa.array(cells))
    path = directory(tmp_path) / "bad.parquet"
    pq.write_table(bad, path)
    with pytest.raises(TraceError, match=re.escape(complaint)) as caught:
        read_trace(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(table().drop_columns(["layer"]), directory(tmp_path) / "bad.parquet")
    with pytest.raises(TraceError, match="lacks the column 'layer'"):
        read_trace(tmp_path)


@pytest.mark.parametrize("name", ["bad.parquet", "bad.arrow"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, name: str) -> None:
    (directory(tmp_path) / name).write_bytes(b"PAR1 this is not it")
    with pytest.raises(TraceError, match=f"{name}: cannot be read"):
        read_trace(tmp_path)


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = directory(tmp_path) / "a.parquet"
    pq.write_table(table(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(TraceError, match=r"a\.parquet: cannot be read"):
        read_trace(tmp_path)


def test_there_must_be_something(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such directory"):
        read_trace(tmp_path / "none")
    with pytest.raises(TraceError, match=r"holds no \*\.parquet"):
        read_trace(tmp_path)
    pq.write_table(table().slice(0, 0), directory(tmp_path) / "empty.parquet")
    with pytest.raises(TraceError, match="the trace has no rows"):
        read_trace(tmp_path)


def tmp_path_of(path: Path, name: str) -> Path:
    folder = path / name.replace(".", "-")
    folder.mkdir()
    return folder
