from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data.cache import cached
from vlmoe_train.data.samples import Samples

SPEC = ImageSpec(size=4)


class Build:
    """Counts how often the samples are made."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Samples:
        self.count += 1
        return Samples(
            images=np.full((1, 4, 4, 3), self.count, np.uint8),
            image_index=np.array([0, 0]),
            texts=("caf\u00e9?", ""),
            targets=np.array([1, 0]),
            labels=("a, \u201cb\u201d", "c"),
            groups=("", "g"),
        )


@pytest.fixture
def code(tmp_path: Path) -> str:
    path = tmp_path / "loader.py"
    path.write_text("one")
    return str(path)


def test_second_time_comes_from_the_file(tmp_path: Path, code: str) -> None:
    build = Build()
    first, second = (cached(tmp_path, "emoji", "val", SPEC, build, code=(code,)) for _ in range(2))
    assert build.count == 1
    assert (second.images == first.images).all()
    assert (second.image_index == first.image_index).all()
    assert (second.targets == first.targets).all()
    assert (second.texts, second.labels, second.groups) == (first.texts, first.labels, first.groups)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["split", "size", "crop", "resize", "dataset", "options", "code"])
def test_everything_the_samples_depend_on_is_in_the_key(tmp_path: Path, code: str, change: str) -> None:
    build = Build()
    cached(tmp_path, "emoji", "val", SPEC, build, code=(code,))
    dataset, split, spec, options = "emoji", "val", SPEC, ""
    match change:
        case "split":
            split = "test"
        case "size":
            spec = ImageSpec(size=8)
        case "crop":
            spec = ImageSpec(size=4, crop="content")
        case "resize":
            spec = ImageSpec(size=4, resize="bilinear")
        case "dataset":
            dataset = "scenes"
        case "options":
            options = "other"
        case "code":
            Path(code).write_text("two")
    cached(tmp_path, dataset, split, spec, build, code=(code,), options=options)
    assert build.count == 2


def test_normalisation_does_not_make_another_copy(tmp_path: Path, code: str) -> None:
    build = Build()
    cached(tmp_path, "emoji", "val", SPEC, build, code=(code,))
    cached(tmp_path, "emoji", "val", ImageSpec(size=4, mean=(0.0, 0.0, 0.0)), build, code=(code,))
    assert build.count == 1
