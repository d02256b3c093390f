"""Writes a routing trace while the engine runs: rows are kept in memory, and a thread writes them out in files.

    add(rows) -> buffer --full, or a minute old--> thread -> NUMBER.parquet --too many bytes--> the oldest file goes

Whoever adds never waits: rows that come while two buffers are full are dropped and counted.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vlmoe_serve.placement.trace_format import META, Rows, TraceError, TraceMeta, read_meta

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """When a file ends, and when the oldest goes. max_bytes: of all files together."""

    rows_per_file: int = 1_000_000
    seconds_per_file: float = 60.0
    max_bytes: int = 1 << 30


class TraceWriter:
    """One recording. Steps and requests must not repeat, also not after a restart: number them from the time."""

    def __init__(
        self,
        directory: Path,
        meta: TraceMeta,
        options: WriterOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin, or go on in a directory of the same model.

        Raises:
            TraceError: the directory cannot be written to, or holds the trace of another model.
        """
        self.num_dropped = 0
        self._directory = directory
        self._options = options or WriterOptions()
        self._clock = clock
        self._buffer: list[Rows] = []
        self._num_rows = 0
        self._since_s = 0.0
        self._number = time.time_ns() // 1000
        self._writing: Future[None] | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            before = read_meta(directory)
            if before is None or before.is_same_model(meta):
                if before is not None and before.num_ranks != meta.num_ranks:
                    meta = replace(meta, num_ranks=0)
                (directory / META).write_text(meta.to_json(), encoding="utf-8")
            else:
                raise TraceError(f"{directory}: holds the trace of another model ({before.model_id})")
        except OSError as error:
            raise TraceError(f"{directory}: cannot be written to: {error}") from None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trace")

    def add(self, rows: Rows) -> None:
        """Keep rows; the arrays must not be written to afterwards."""
        if not len(rows):
            return
        if self._num_rows >= 2 * self._options.rows_per_file:
            if not self.num_dropped:
                _log.warning("%s: rows come faster than they are written; some are lost", self._directory)
            self.num_dropped += len(rows)
            return
        if not self._buffer:
            self._since_s = self._clock()
        self._buffer.append(rows)
        self._num_rows += len(rows)
        is_old = self._clock() - self._since_s >= self._options.seconds_per_file
        if (self._num_rows >= self._options.rows_per_file or is_old) and (
            self._writing is None or self._writing.done()
        ):
            self._hand_over()

    def close(self) -> None:
        """Write what is left."""
        if self._writing is not None:
            self._writing.result()
        if self._buffer:
            self._hand_over()
        self._pool.shutdown()

    def _hand_over(self) -> None:
        buffer, self._buffer, self._num_rows = self._buffer, [], 0
        self._number += 1
        self._writing = self._pool.submit(self._write, buffer, self._directory / f"{self._number}.parquet")

    def _write(self, buffer: list[Rows], path: Path) -> None:
        try:
            write_rows(buffer, path)
            _keep_newest(self._directory, self._options.max_bytes)
        except OSError as error:
            # a full disk must not stop the engine
            _log.warning("%s: not written: %s", path, error)


def write_rows(buffer: list[Rows], path: Path) -> None:
    """One Parquet file, which appears under its name only when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    table = pa.table(
        {field.name: np.concatenate([getattr(rows, field.name) for rows in buffer]) for field in fields(Rows)}
    )
    part = path.with_suffix(".part")
    try:
        pq.write_table(table, part, compression="zstd")
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def _keep_newest(directory: Path, max_bytes: int) -> None:
    files = sorted(directory.glob("*.parquet"), reverse=True)
    held = 0
    for path in files:
        held += path.stat().st_size
        if held > max_bytes and path != files[0]:
            path.unlink()
