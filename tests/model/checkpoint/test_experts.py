import pytest

from vlmoe_model.checkpoint.experts import is_expert, pool_of
from vlmoe_model.config import ModelConfig


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.blocks.1.ffn.pools.V.w1", True),
        ("encoder.blocks.1.ffn.pools.T.b2", True),
        ("encoder.blocks.1.ffn.pools.VL.w1", False),
        ("encoder.blocks.0.ffn.pools.V.w1", False),
        ("encoder.blocks.11.ffn.pools.V.w1", False),
        ("encoder.blocks.1.ffn.routers.V.weight", False),
        ("heads.blocks.1.ffn.pools.V.w1", False),
        ("embeddings.words", False),
    ],
)
def test_experts_are_the_modality_pools_of_mixture_blocks(
    config: ModelConfig, name: str, expected: bool
) -> None:
    assert is_expert(name, config) is expected


def test_the_pool_of_a_tensor_is_named(config: ModelConfig) -> None:
    assert pool_of("encoder.blocks.1.ffn.pools.T.b2", config) == (1, "T")
    assert pool_of("encoder.blocks.1.ffn.pools.VL.b2", config) is None
