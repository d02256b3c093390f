import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.data import LOADERS, load_samples
from vlmoe_train.data.sources import DATASETS


def test_every_data_set_of_the_table_loads(data_root: Path) -> None:
    assert list(LOADERS) == list(DATASETS)
    for name in LOADERS:
        samples = load_samples(name, data_root, "val", ImageSpec(size=16))
        assert len(samples) > 0
        again = load_samples(name, data_root, "val", ImageSpec(size=16))
        assert (samples.images == again.images).all()
        assert samples.texts == again.texts


def test_options_reach_the_loader(data_root: Path) -> None:
    samples = load_samples("scenes", data_root, "train", ImageSpec(size=16), num_train=2)
    assert len(samples.images) == 2


def test_a_file_of_ones_own_per_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"own-{split}.jsonl").write_text(json.dumps({"text": split, "label": "x"}))
    assert load_samples("own-{split}.jsonl", tmp_path, "train", None).texts == ("train",)
    assert load_samples("own-{split}.jsonl", tmp_path, "test", None).texts == ("test",)


def test_unknown_names_and_missing_specs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'cifar'; there are fashion_mnist"):
        load_samples("cifar", tmp_path, "train", None)
    with pytest.raises(ValueError, match="'emoji' needs a head that takes images"):
        load_samples("emoji", tmp_path, "train", None)


def test_data_needs_no_torch() -> None:
    modules = [*LOADERS.values(), "vlmoe_train.data.jsonl", "vlmoe_train.data.fetch", "vlmoe_train.cli_data"]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
