from collections.abc import Callable

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import States
from vlmoe_model.heads.contrastive import ContrastiveHead


@pytest.fixture
def head(config: ModelConfig) -> ContrastiveHead:
    return ContrastiveHead(config.head("matching"), config)


@pytest.mark.parametrize(("num_text", "num_image"), [(4, 0), (0, 5)])
def test_embeddings_have_unit_length(
    head: ContrastiveHead, build_states: Callable[..., States], num_text: int, num_image: int
) -> None:
    embedding = head(build_states("matching", num_text, num_image))
    assert embedding.shape == (3, 6)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_both_at_once_are_refused(head: ContrastiveHead, build_states: Callable[..., States]) -> None:
    with pytest.raises(ValueError, match="'matching' embeds an image or a text, not both"):
        head(build_states("matching", 4, 5))


def test_projections_have_no_bias_and_the_temperature_starts_as_clips(head: ContrastiveHead) -> None:
    assert head.image_proj.bias is None
    assert head.text_proj.bias is None
    assert head.logit_scale.exp().item() == pytest.approx(1 / 0.07)
