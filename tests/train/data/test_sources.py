import re

import pytest

from vlmoe_train.data.sources import DATASETS, PACKAGES, RECIPES, dataset_names, package_fingerprint


def test_every_package_is_pinned_and_every_named_one_exists() -> None:
    for package in PACKAGES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
        assert re.search(r"(==|@|=)\d", package.spec), package.spec
        assert package.members
        assert package.licence
    named = {package for dataset in DATASETS.values() for package in dataset.packages}
    assert named == set(PACKAGES)


def test_a_recipe_stands_for_its_data_sets() -> None:
    assert dataset_names("demo") == RECIPES["demo"] == ("fashion_mnist", "easy_vqa", "emoji", "scenes")
    assert dataset_names("emoji") == ("emoji",)
    with pytest.raises(
        ValueError, match="no data set 'cifar'; there are fashion_mnist, easy_vqa, emoji, scenes, demo"
    ):
        dataset_names("cifar")


def test_fingerprints_differ_by_packages() -> None:
    assert len({package_fingerprint(name) for name in DATASETS}) == len(DATASETS)
