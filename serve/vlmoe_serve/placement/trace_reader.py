"""From a directory of trace files to the load a planner sees.

    files -> columns, checked -> choices by (step, request) -> Load

A file is read in pieces, so a trace may be larger than memory. Files of other writers are welcome: columns may come in
any order, in other widths, and with more beside them.
"""

# R = rows, Q = sequences, L = MoE layers, X = experts of both pools

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from vlmoe_serve.placement.load import Counts, Load
from vlmoe_serve.placement.trace_format import COLUMNS, TraceError, TraceMeta, read_meta

_PARQUET = (".parquet",)
_ARROW = (".arrow", ".ipc", ".feather")
_PIECE = 1 << 20


def read_trace(directory: Path) -> Load:
    """Everything in a directory, in the order of steps.

    Raises:
        TraceError: no files, a file that cannot be read, lacks a column, or holds what cannot be.
    """
    files = trace_files(directory)
    meta = read_meta(directory) or _inferred(files)
    parts = [_part(path, piece, meta) for path in files for piece in _pieces(path, tuple(COLUMNS))]
    parts = [part for part in parts if len(part.step_Q)]
    if not parts:
        raise TraceError(f"{directory}: the trace has no rows")
    return _merged(parts, meta)


def trace_files(directory: Path) -> list[Path]:
    """The files of a trace, by name.

    Raises:
        TraceError: no such directory, or no files in it.
    """
    if not directory.is_dir():
        raise TraceError(f"{directory}: no such directory")
    found = sorted(
        path for path in directory.iterdir() if path.suffix in _PARQUET + _ARROW and path.is_file()
    )
    if not found:
        raise TraceError(f"{directory}: holds no {', '.join(f'*{each}' for each in _PARQUET + _ARROW)} files")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What one piece of a file says; sequences in order of (step, request)."""

    step_Q: npt.NDArray[np.int64]
    request_Q: npt.NDArray[np.int64]
    tokens_Q: npt.NDArray[np.int64]
    rank_Q: npt.NDArray[np.int16]
    counts_QLX: Counts


def _part(path: Path, columns: dict[str, npt.NDArray[Any]], meta: TraceMeta) -> _Part:
    layers, pools = np.array(meta.layers), np.array(meta.pools)
    _check(path, "modality", columns["modality"], 0, 1)
    _check(path, "rank", columns["rank"], 0, meta.num_ranks - 1 if meta.num_ranks else None)
    for name in ("slot", "token", "expert"):
        _check(path, name, columns[name], 0, None)
    modality_R, expert_R = columns["modality"], columns["expert"]
    if (expert_R >= pools[modality_R]).any():
        row = int((expert_R >= pools[modality_R]).argmax())
        raise TraceError(
            f"{path}: row {row} names expert {expert_R[row]} of a pool of {pools[modality_R[row]]} experts"
        )
    place_R = np.searchsorted(layers, columns["layer"]).clip(max=len(layers) - 1)
    if (layers[place_R] != columns["layer"]).any():
        row = int((layers[place_R] != columns["layer"]).argmax())
        raise TraceError(
            f"{path}: row {row} names layer {columns['layer'][row]}; the trace's are {list(meta.layers)}"
        )
    step_Q, request_Q, sequence_R = _sequences(columns["step"], columns["request"])
    num_experts = int(pools.sum())
    group_R = expert_R + np.where(modality_R, pools[0], 0)
    cell_R = (sequence_R * len(layers) + place_R) * num_experts + group_R
    shape = (len(step_Q), len(layers), num_experts)
    counts_QLX = np.bincount(cell_R, minlength=int(np.prod(shape))).reshape(shape).astype(np.int32)
    tokens_Q = np.zeros(len(step_Q), np.int64)
    np.maximum.at(tokens_Q, sequence_R, columns["token"] + np.int64(1))
    rank_Q = np.zeros(len(step_Q), np.int16)
    rank_Q[sequence_R] = columns["rank"]
    return _Part(step_Q, request_Q, tokens_Q, rank_Q, counts_QLX)


def _sequences(
    step_R: npt.NDArray[np.int64], request_R: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """The different (step, request), and which of them each row is of."""
    if not len(step_R):
        return step_R, request_R, np.zeros(0, np.intp)
    # rows of a sequence stand together in long runs; only the runs are sorted
    is_new_R = np.ones(len(step_R), bool)
    is_new_R[1:] = (step_R[1:] != step_R[:-1]) | (request_R[1:] != request_R[:-1])
    keys = np.stack([step_R[is_new_R], request_R[is_new_R]], axis=1)
    different, of_run = np.unique(keys, axis=0, return_inverse=True)
    return different[:, 0], different[:, 1], of_run.reshape(-1)[is_new_R.cumsum() - 1]


def _merged(parts: list[_Part], meta: TraceMeta) -> Load:
    """A sequence may be cut in two by the end of a piece or of a file."""
    step = np.concatenate([part.step_Q for part in parts])
    request = np.concatenate([part.request_Q for part in parts])
    order = np.lexsort((request, step))
    step, request = step[order], request[order]
    is_new = np.ones(len(step), bool)
    is_new[1:] = (step[1:] != step[:-1]) | (request[1:] != request[:-1])
    first = np.flatnonzero(is_new)
    counts = np.add.reduceat(np.concatenate([part.counts_QLX for part in parts])[order], first, axis=0)
    return Load(
        meta.layers,
        meta.pools,
        np.unique(step[first], return_inverse=True)[1].astype(np.int64),
        np.maximum.reduceat(np.concatenate([part.tokens_Q for part in parts])[order], first),
        counts,
        np.concatenate([part.rank_Q for part in parts])[order][first],
        meta.num_ranks,
    )


def _inferred(files: list[Path]) -> TraceMeta:
    """What a trace without `meta.json` says of itself: nothing that no token chose is known."""
    layers: set[int] = set()
    pools, num_ranks = [0, 0], 1
    for path in files:
        for piece in _pieces(path, ("layer", "modality", "expert", "rank")):
            layers.update(np.unique(piece["layer"]).tolist())
            for pool in range(2):
                chosen = piece["expert"][piece["modality"] == pool]
                pools[pool] = max(pools[pool], int(chosen.max(initial=-1)) + 1)
            num_ranks = max(num_ranks, int(piece["rank"].max(initial=0)) + 1)
    return TraceMeta("", tuple(sorted(layers)), (pools[0], pools[1]), num_ranks)


def _pieces(path: Path, wanted: tuple[str, ...]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    try:
        for batch in _batches(path):
            yield {name: _column(path, batch, name) for name in wanted}
    except (pa.ArrowException, OSError) as error:
        raise TraceError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix in _PARQUET:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_PIECE, columns=[n for n in file.schema_arrow.names if n in COLUMNS])
        return
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            yield from pa.ipc.open_stream(source)
            return
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _column(path: Path, batch: pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    if name not in batch.schema.names:
        raise TraceError(f"{path}: lacks the column {name!r}; a trace has {', '.join(COLUMNS)}")
    column = batch.column(name)
    if column.null_count:
        raise TraceError(f"{path}: column {name!r} has empty cells")
    wanted = pa.from_numpy_dtype(COLUMNS[name])
    if name == "gate":
        # nothing is planned by it: that it is a number is enough
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise TraceError(f"{path}: column 'gate' must hold numbers, got {column.type}")
        return np.zeros(len(column), np.float16)
    try:
        values: npt.NDArray[Any] = column.cast(wanted).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TraceError(f"{path}: column {name!r} must be {wanted}: {error}") from None
    return values


def _check(path: Path, name: str, values_R: npt.NDArray[Any], low: int, high: int | None) -> None:
    if len(values_R) and (values_R.min() < low or (high is not None and values_R.max() > high)):
        allowed = f"in {low} .. {high}" if high is not None else f"from {low}"
        wrong = values_R.min() if values_R.min() < low else values_R.max()
        raise TraceError(f"{path}: {name} must be {allowed}, got {wrong}")
