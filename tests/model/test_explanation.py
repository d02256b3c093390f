import dataclasses

import numpy as np
import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_model.explanation import LayerRoutes, from_numbers, to_numbers


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_routes_travel_as_numbers(config: ModelConfig, num_tokens: int) -> None:
    config = dataclasses.replace(config, moe_blocks=(1, 0), top_k=2, num_experts=4096)
    rng = np.random.default_rng(0)
    layers = [
        LayerRoutes(
            block,
            rng.integers(0, 3, num_tokens).astype(np.uint8),
            rng.integers(-1, 4096, (num_tokens, 2)),
            rng.random((num_tokens, 2), np.float32),
        )
        for block in (0, 1)
    ]
    numbers = to_numbers(layers)
    assert numbers.dtype == np.float32
    for one, read in zip(layers, from_numbers(numbers, config, num_tokens), strict=True):
        assert one.layer == read.layer
        for name in ("pools_T", "experts_TK", "gates_TK"):
            assert getattr(one, name).dtype == getattr(read, name).dtype
            assert np.array_equal(getattr(one, name), getattr(read, name))


def test_a_dense_model_has_no_routes(config: ModelConfig) -> None:
    assert from_numbers(to_numbers([]), config.dense_twin(), 5) == []


def test_numbers_of_another_length_are_refused(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="0 numbers are no routes of 5 tokens in 1 blocks"):
        from_numbers(np.zeros(0, np.float32), config, 5)
