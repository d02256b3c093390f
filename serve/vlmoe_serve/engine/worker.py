"""The engine process: load, warm up, then compute one batch after the other until the front is gone.

    python -P -m vlmoe_serve.engine.worker PARENT_PID SOCKET_FD ARENA_FD...

It never outlives the front: Linux kills it with its parent, and everywhere the end of the socket ends it.
SIGINT and SIGTERM are ignored: when to stop is the front's decision, and it drains first.
"""

import gc
import importlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence

import numpy as np

from vlmoe_serve.batching.cost import Sample
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.engine.base import Engine, SeveralEngine
from vlmoe_serve.engine.lifetime import die_with
from vlmoe_serve.engine.protocol import (
    Batch,
    BatchDone,
    BatchRaised,
    FromEngine,
    Load,
    LoadFailed,
    Ping,
    Pong,
    Ready,
    frame,
    receive,
)
from vlmoe_serve.engine.report import EngineReport
from vlmoe_serve.engine.transport import ArenaView
from vlmoe_serve.logs import configure_logs

# The timed part of the warm-up stops here: a large model on a slow machine must not start twice as slowly.
_MAX_SAMPLING_S = 1.0
# Metrics are looked at every few seconds.
_REPORT_S = 1.0


def main(argv: Sequence[str]) -> int:
    """Serve the front at the other end of the inherited socket."""
    parent_pid, sock_fd, *arena_fds = map(int, argv)
    die_with(parent_pid)
    configure_logs()
    with socket.socket(fileno=sock_fd) as sock:
        try:
            return _serve(sock, [ArenaView(fd) for fd in arena_fds])
        except (EOFError, OSError):
            # The front is gone or hung up, and the engine is closed. No other clean-up can matter now, and some
            # libraries take seconds over theirs.
            os._exit(0)


def _serve(sock: socket.socket, arenas: Sequence[ArenaView]) -> int:
    load = receive(sock)
    assert isinstance(load, Load)
    try:
        engine = _load(load)
        samples = _warm_up(engine)
    except Exception as error:
        # A ValueError is the user's: a bad checkpoint, an unknown device. Anything else is ours, with its
        # traceback.
        if not isinstance(error, ValueError | OSError):
            traceback.print_exc()
        _send(sock, LoadFailed(_one_line(error)))
        return 1
    # Whatever loading made stays for good: the collector need not walk over it again.
    gc.collect()
    gc.freeze()
    engine.warmed_up()
    reports = _Reports(engine)
    _send(sock, Ready(engine.facts, samples))
    try:
        while True:
            asked = receive(sock)
            if isinstance(asked, Ping):
                if asked.left and isinstance(engine, SeveralEngine):
                    engine.leave(asked.left)
                engine.beat()
                _send(sock, Pong(asked.id, reports.due()))
                continue
            assert isinstance(asked, Batch)
            _send(sock, _answer(engine, asked, arenas[asked.arena], reports))
    finally:
        engine.close()


class _Reports:
    """The engine's reports, at most one in `_REPORT_S`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last_s = time.monotonic()

    def due(self) -> EngineReport | None:
        now_s = time.monotonic()
        if now_s - self._last_s < _REPORT_S:
            return None
        self._last_s = now_s
        return self._engine.report()


def _load(load: Load) -> Engine:
    module, _, function = load.factory.partition(":")
    engine: Engine = getattr(importlib.import_module(module), function)(load.options)
    return engine


def _warm_up(engine: Engine) -> tuple[Sample, ...]:
    """The first batch once, for compilation, packing and memory; then all of them with the clock on."""
    batches = engine.warm_up_batches()
    engine.run(batches[0])
    samples: list[Sample] = []
    begin_s = time.perf_counter()
    for jobs in batches:
        work = sum((Work.of(job, engine.facts.patch_size) for job in jobs), Work())
        ahead_ms = samples[0].ms * work.tokens / samples[0].work.tokens if samples else 0.0
        start_s = time.perf_counter()
        if start_s - begin_s + ahead_ms / 1000 > _MAX_SAMPLING_S and samples:
            break
        engine.run(jobs)
        samples.append(Sample(work, 1000 * (time.perf_counter() - start_s)))
    return tuple(samples)


def _answer(engine: Engine, batch: Batch, arena: ArenaView, reports: _Reports) -> BatchDone | BatchRaised:
    try:
        start_s = time.perf_counter()
        outputs = engine.run(arena.read(batch.jobs, batch.arena_bytes))
        forward_ms = 1000 * (time.perf_counter() - start_s)
        if len(outputs) != len(batch.jobs):
            raise RuntimeError(f"the engine gave {len(outputs)} outputs for {len(batch.jobs)} jobs")
        blocks = tuple(np.ascontiguousarray(output, dtype=np.float32).tobytes() for output in outputs)
        return BatchDone(batch.id, blocks, forward_ms, reports.due())
    except Exception as error:
        traceback.print_exc()
        _leave_if_broken(engine)
        return BatchRaised(batch.id, _one_line(error))


def _leave_if_broken(engine: Engine) -> None:
    """After a batch that raised: a GPU whose context is lost fails every later one too, but not the next process."""
    try:
        engine.beat()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        # what such a GPU still holds, it may not give back
        os._exit(1)


def _send(sock: socket.socket, message: FromEngine) -> None:
    sock.sendall(frame(message))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
