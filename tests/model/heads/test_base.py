import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import States
from vlmoe_model.heads.base import ImagePool

StatesBuilder = Callable[..., States]


@pytest.mark.parametrize("text_first", [True, False])
def test_states_are_read_where_they_stand(build_states: StatesBuilder, text_first: bool) -> None:
    states = build_states("questions", 4, 5, text_first)
    text, image = (0, slice(4, 9)) if text_first else (5, slice(0, 5))
    assert torch.equal(states.text, states.x_NLD[:, text])
    assert torch.equal(states.image, states.x_NLD[:, image])
    assert torch.equal(states.first, states.x_NLD[:, 0])


def test_what_is_missing_is_named(build_states: StatesBuilder) -> None:
    with pytest.raises(ValueError, match="'shapes' needs a text"):
        _ = build_states("shapes", 0, 5).text
    with pytest.raises(ValueError, match="'entailment' needs an image"):
        _ = build_states("entailment", 4, 0).image


def pool_of(config: ModelConfig, kind: str) -> ImagePool:
    return ImagePool(dataclasses.replace(config.head("shapes"), pool=kind), config)


def test_cls_is_the_encoders_own_norm(config: ModelConfig, build_states: StatesBuilder) -> None:
    states = build_states("shapes", 0, 5)
    assert torch.equal(pool_of(config, "cls")(states), states.image[:, 0])
    bare = dataclasses.replace(config, final_norm=False)
    torch.testing.assert_close(pool_of(bare, "cls")(states), F.layer_norm(states.image[:, 0], (8,), eps=1e-6))


def test_mean_leaves_the_first_token_out(config: ModelConfig, build_states: StatesBuilder) -> None:
    states = build_states("questions", 4, 5)
    expected = F.layer_norm(states.x_NLD[:, 5:].mean(1), (8,), eps=1e-6)
    torch.testing.assert_close(pool_of(config, "mean")(states), expected)


def test_flatten_keeps_the_places_and_the_stems_patches(
    config: ModelConfig, build_states: StatesBuilder
) -> None:
    states, pool = build_states("shapes", 0, 5), pool_of(config, "flatten")
    assert pool.out_dim == 2 * 4 * 8
    flat = torch.cat([states.x_NLD[:, 1:].reshape(3, 32), states.patches_NGD.reshape(3, 32)], dim=1)
    torch.testing.assert_close(pool(states), F.layer_norm(flat, (64,), eps=1e-6))


def test_flatten_needs_the_heads_own_size(config: ModelConfig, build_states: StatesBuilder) -> None:
    with pytest.raises(ValueError, match="'shapes' needs images of 4 patches"):
        pool_of(config, "flatten")(build_states("shapes", 0, 10))


def test_pools_compute_in_float32(config: ModelConfig, build_states: StatesBuilder) -> None:
    states = build_states("shapes", 0, 5)
    states = dataclasses.replace(states, x_NLD=states.x_NLD.bfloat16())
    assert pool_of(config, "mean")(states).dtype == torch.float32
