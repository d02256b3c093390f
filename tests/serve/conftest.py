"""What tests of the server share: a real engine process that needs no torch, and jobs for it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.base import EngineOptions

FACTORY = "toy_engine:load"


@dataclass(frozen=True, slots=True)
class Toy:
    """How to start `toy_engine.py`, and the directory where it keeps its files."""

    directory: Path
    factory: str = FACTORY

    @property
    def options(self) -> EngineOptions:
        return EngineOptions(self.directory)

    def batch_sizes(self) -> list[int]:
        """Jobs of each batch it began, since its warm-ups."""
        return [int(line) for line in (self.directory / "batches").read_text().split()]

    def release(self) -> None:
        """Let go of every batch that is held."""
        (self.directory / "go").touch()


@pytest.fixture
def collector():
    # here, not above: its packages are an extra
    from .collectors import GrpcCollector

    receiver = GrpcCollector()
    yield receiver
    receiver.stop()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "engine"), prepend=os.pathsep)
    return Toy(tmp_path)


@pytest.fixture
def job() -> Callable[..., Job]:
    def make(first: int, length: int = 4, size: int | None = 4) -> Job:
        tokens = np.arange(length, dtype=np.int32)
        tokens[0] = first
        image = None if size is None else np.full((size, size, 3), first % 251, np.uint8)
        return Job("toy", Example(image, tokens))

    return make


@pytest.fixture
def answers() -> Callable[[Sequence[Job]], list[list[float]]]:
    """What the toy engine says to these jobs."""

    def make(jobs: Sequence[Job]) -> list[list[float]]:
        return [
            [
                0.0 if job.example.image is None else float(job.example.image.sum(dtype=np.int64)),
                0.0 if job.example.tokens is None else float(job.example.tokens.sum()),
                0.0 if job.example.tokens is None else float(len(job.example.tokens)),
            ]
            for job in jobs
        ]

    return make
