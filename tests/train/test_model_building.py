import dataclasses
from pathlib import Path

import pytest
import torch

from vlmoe_train.config import load_recipe
from vlmoe_train.model_building import build


def test_labels_vocabulary_and_heads_come_from_the_data(recipe_file: Path, tmp_path: Path):
    setup = build(load_recipe(str(recipe_file)), tmp_path)
    config = setup.network.config
    assert setup.labels == {
        "classes": ("red", "green", "blue"),
        "answers": ("red", "green", "blue"),
        "captions": (),
    }
    assert {head.name: head.out_dim for head in config.heads} == {"classes": 3, "answers": 3, "captions": 8}
    assert config.vocab_size == setup.tokenizer.vocab_size
    assert "square" in setup.tokenizer.decode(setup.tokenizer.encode("a red square"))


def test_the_seed_decides_the_weights(recipe_file: Path, tmp_path: Path):
    networks = [build(load_recipe(str(recipe_file), {"seed": s}), tmp_path).network for s in (1, 1, 2)]
    first, same, other = (network.embeddings.words for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_int8_experts_are_not_trained(recipe_file: Path, tmp_path: Path):
    config = load_recipe(str(recipe_file))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, expert_weights="int8"))
    with pytest.raises(ValueError, match="int8 experts cannot be trained"):
        build(config, tmp_path)
