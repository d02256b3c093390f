import dataclasses
from collections.abc import Callable

import pytest

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import States
from vlmoe_model.heads.vqa import VQAHead


@pytest.mark.parametrize(("hidden", "expected"), [(0, 16), (5, 5)])
def test_one_logit_an_answer(
    config: ModelConfig, build_states: Callable[..., States], hidden: int, expected: int
) -> None:
    head = VQAHead(dataclasses.replace(config.head("questions"), hidden=hidden), config)
    assert head(build_states("questions", 4, 5)).shape == (3, 3)
    assert head.up.weight.shape == (expected, 8)


@pytest.mark.parametrize(("num_text", "num_image"), [(4, 0), (0, 5)])
def test_a_question_needs_an_image_and_a_text(
    config: ModelConfig, build_states: Callable[..., States], num_text: int, num_image: int
) -> None:
    with pytest.raises(ValueError, match="'questions' needs an image and a text"):
        VQAHead(config.head("questions"), config)(build_states("questions", num_text, num_image))
