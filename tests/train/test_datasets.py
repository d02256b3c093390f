from pathlib import Path

import pytest

from vlmoe_model.config import ImageSpec
from vlmoe_train.datasets import load_samples


def test_an_unknown_data_set_lists_what_there_is(tmp_path: Path):
    with pytest.raises(ValueError, match=r"data must be one of fashion_mnist, .*, got 'imagenet'"):
        load_samples("imagenet", tmp_path, "train", ImageSpec(size=16))
