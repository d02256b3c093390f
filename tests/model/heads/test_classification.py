from collections.abc import Callable

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import HEADS, States


@pytest.mark.parametrize(("name", "num_text", "num_image"), [("shapes", 0, 5), ("entailment", 4, 0)])
def test_one_logit_a_label(
    config: ModelConfig, build_states: Callable[..., States], name: str, num_text: int, num_image: int
) -> None:
    head = config.head(name)
    assert HEADS[head.task](head, config)(build_states(name, num_text, num_image)).shape == (3, head.out_dim)


def test_the_text_head_reads_the_first_token_alone(
    config: ModelConfig, build_states: Callable[..., States]
) -> None:
    head = config.head("entailment")
    module, states = HEADS[head.task](head, config), build_states("entailment", 4, 0)
    before = module(states)
    states.x_NLD[:, 1:] += 1.0
    assert torch.equal(module(states), before)
