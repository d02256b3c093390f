import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data import sources
from vlmoe_train.datasets import DATASETS, load_samples


def test_an_unknown_data_set_lists_what_there_is(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data must be one of fashion_mnist, .*, got 'imagenet'"):
        load_samples("imagenet", tmp_path, "train", ImageSpec(size=16))


def test_images_for_a_head_without_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'emoji' needs a head that takes images"):
        load_samples("emoji", tmp_path, "train", None)


def test_every_data_set_that_can_be_fetched_loads_twice_the_same(data_root: Path):
    assert list(DATASETS) == list(sources.DATASETS)
    for name in DATASETS:
        samples, again = (load_samples(name, data_root, "val", ImageSpec(size=16)) for _ in range(2))
        assert len(samples) > 0
        assert (samples.images == again.images).all()
        assert samples.texts == again.texts


def test_options_reach_the_loader(data_root: Path):
    samples = load_samples("scenes", data_root, "train", ImageSpec(size=16), num_train=2)
    assert len(samples.images) == 2


def test_a_file_of_ones_own_per_split(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / f"own-{split}.jsonl").write_text(json.dumps({"text": split, "label": "x"}))
        assert load_samples("own-{split}.jsonl", tmp_path, split, None).texts == (split,)


def test_data_needs_no_torch():
    modules = ["vlmoe_train.datasets", "vlmoe_train.data.fetch", "vlmoe_train.cli_data"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
