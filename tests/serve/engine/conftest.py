"""Checkpoints of the tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .tiny import save_tiny


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(seed: int) -> Path:
        path = tmp_path_factory.mktemp("checkpoint") / "tiny"
        save_tiny(path, seed)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[[int], Path]) -> Path:
    return make_checkpoint(0)
