import dataclasses

import pytest
import torch
import torch.nn.functional as F

from vlmoe_model.config import ModelConfig
from vlmoe_model.embeddings import Embeddings
from vlmoe_model.packing import SequenceRun


@pytest.fixture
def large(config: ModelConfig) -> ModelConfig:
    """Base's grid of 14 x 14, as narrow as the tiny model."""
    return dataclasses.replace(config, image_size=14 * 4, heads=())


def test_positions_of_the_trained_grid_are_the_table(large: ModelConfig) -> None:
    embeddings = Embeddings(large)
    assert embeddings.positions_for(14) is not None
    assert torch.equal(embeddings.positions_for(14), embeddings.image_positions)


@pytest.mark.parametrize("grid", [7, 24, 30])
@pytest.mark.parametrize("offset", [0, 2])
def test_positions_of_another_grid_are_the_table_as_a_resized_picture(
    large: ModelConfig, grid: int, offset: int
) -> None:
    embeddings = Embeddings(dataclasses.replace(large, position_offset=offset))
    positions = embeddings.positions_for(grid)
    assert positions.shape == (1 + grid**2, large.dim)
    assert torch.equal(positions[0], embeddings.image_positions[offset])
    picture = embeddings.image_positions[offset + 1 :].view(14, 14, large.dim).permute(2, 0, 1)
    resized = F.interpolate(picture[None], (grid, grid), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(positions[1:].view(grid, grid, large.dim), resized.permute(1, 2, 0))


def test_resizing_there_and_back_keeps_a_smooth_table(large: ModelConfig) -> None:
    """A ramp over the grid stays a ramp: rows and columns are not swapped."""
    embeddings = Embeddings(large)
    rows = torch.arange(14.0).repeat_interleave(14)
    with torch.no_grad():
        embeddings.image_positions[1:] = rows.unsqueeze(1)
    resized = embeddings.positions_for(28)[1:, 0].view(28, 28)
    assert (resized[1:] >= resized[:-1]).all()
    torch.testing.assert_close(resized[:, 0], resized[:, 27])


def test_a_pair_is_text_then_image_or_the_other_way(config: ModelConfig) -> None:
    embeddings = Embeddings(config)
    tokens, images = torch.tensor([[2, 5, 3]]), torch.randn(1, 3, 8, 8)
    text, image = embeddings.text(tokens)[0], embeddings.image(embeddings.stem(images))[0]
    for text_first, parts in ((True, (text, image)), (False, (image, text))):
        x_TD, patches = embeddings(SequenceRun("questions", 1, 3, 5, text_first, images, tokens))
        assert torch.equal(x_TD, torch.cat(parts))
        assert patches is not None
        assert patches.shape == (1, 4, config.dim)
    assert embeddings(SequenceRun("entailment", 1, 3, 0, True, None, tokens))[1] is None


def test_the_offset_skips_the_first_rows(config: ModelConfig) -> None:
    embeddings = Embeddings(dataclasses.replace(config, position_offset=2))
    with torch.no_grad():
        embeddings.text_positions[:2] = torch.nan
        embeddings.image_positions[:2] = torch.nan
    assert embeddings.text(torch.tensor([[1] * config.max_text])).isfinite().all()
    assert embeddings.image(torch.zeros(1, 4, config.dim)).isfinite().all()


def test_types_come_after_the_norm_of_the_text(config: ModelConfig) -> None:
    config = dataclasses.replace(
        config, type_embeddings=True, text_embedding_norm=True, absolute_position=False
    )
    embeddings = Embeddings(config)
    with torch.no_grad():
        embeddings.types[:] = 3.0
    # normed rows have a mean of 0, and the type stands on top
    torch.testing.assert_close(embeddings.text(torch.tensor([[7]])).mean(), torch.tensor(3.0))
