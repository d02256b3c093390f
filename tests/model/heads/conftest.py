"""States of one run, as the encoder would hand them to a head."""

from collections.abc import Callable

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import States
from vlmoe_model.packing import SequenceRun


@pytest.fixture
def build_states(config: ModelConfig) -> Callable[..., States]:
    """build_states(head, num_text, num_image, text_first): three random sequences."""

    def build(head: str, num_text: int, num_image: int, text_first: bool = True) -> States:
        images = torch.zeros(3, 3, 8, 8) if num_image else None
        tokens = torch.zeros(3, num_text, dtype=torch.int64) if num_text else None
        run = SequenceRun(head, 3, num_text, num_image, text_first, images, tokens)
        patches = torch.randn(3, num_image - 1, config.dim) if num_image else None
        return States(run, torch.randn(3, run.length, config.dim), patches)

    return build
