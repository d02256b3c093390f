"""A tiny engine for tests of everything around engines: a real process, quick to start, no torch.

The answer to a job is (sum of its pixels, sum of its tokens, length of its tokens). The first token of a text
can ask for trouble; `path` is a directory in which it keeps what must outlive the process.
"""

import os
import sys
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.base import EngineFacts, EngineOptions
from vlmoe_serve.engine.report import EngineReport

EXIT, HANG, RAISE, WAIT_ONCE, HOLD, BREAK = range(1001, 1007)


class ToyEngine:
    def __init__(self, options: EngineOptions) -> None:
        self._directory = options.path
        self._is_broken = False
        self.facts = EngineFacts("m-toy", "s-toy", 1.0, "fp32", "cpu", 0, 2, "toy")

    def warm_up_batches(self) -> Sequence[Sequence[Job]]:
        job = Job("toy", Example(tokens=np.array([2, 3], np.int32)))
        return [job], [job] * 2, [job] * 4

    def run(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        with (self._directory / "batches").open("a") as log:
            log.write(f"{len(jobs)}\n")
        return [self._answer(job) for job in jobs]

    def beat(self) -> None:
        if self._is_broken:
            raise RuntimeError("the device is lost")

    def report(self) -> EngineReport | None:
        return EngineReport(None, (1 << 20,))

    def warmed_up(self) -> None:
        (self._directory / "batches_of_warm_up").write_text((self._directory / "batches").read_text())

    def close(self) -> None:
        (self._directory / "closed").touch()

    def _answer(self, job: Job) -> npt.NDArray[np.float32]:
        image, tokens = job.example.image, job.example.tokens
        if tokens is not None:
            self._maybe_misbehave(int(tokens[0]))
        num_tokens = 0 if tokens is None else len(tokens)
        sums = [0 if array is None else array.sum(dtype=np.int64) for array in (image, tokens)]
        return np.array([*sums, num_tokens], np.float32)

    def _maybe_misbehave(self, trouble: int) -> None:
        if trouble == EXIT:
            os._exit(3)
        if trouble == HANG:
            time.sleep(600)
        if trouble == RAISE:
            raise KeyError("no such head")
        if trouble == BREAK:
            self._is_broken = True
        if self._is_broken:
            raise RuntimeError("the device is lost")
        if trouble == HOLD:
            while not (self._directory / "go").exists():
                time.sleep(0.002)
        mark = self._directory / "waiting"
        if trouble == WAIT_ONCE and not mark.exists():
            # Written aside and renamed: whoever sees the file sees the whole pid.
            aside = self._directory / "waiting.part"
            aside.write_text(str(os.getpid()))
            aside.rename(mark)
            time.sleep(600)


def load(options: EngineOptions) -> ToyEngine:
    if not options.path.is_dir():
        raise ValueError(f"{options.path}: no such\ncheckpoint")
    if (options.path / "exit-while-loading").exists():
        os._exit(4)
    if (options.path / "hang-while-loading").exists():
        time.sleep(600)
    if (options.path / "garbage-while-loading").exists():
        # the worker's own socket, and no pickle
        os.write(int(sys.argv[2]), (8).to_bytes(8, "big") + b"no pickl")
        time.sleep(600)
    if (options.path / "bug-while-loading").exists():
        raise AttributeError("no such thing")
    return ToyEngine(options)
