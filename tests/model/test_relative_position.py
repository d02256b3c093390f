import dataclasses

import pytest
import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import SequenceRun
from vlmoe_model.relative_position import RelativePosition, distance_index, num_image_distances


def test_the_table_has_the_published_number_of_rows(config: ModelConfig) -> None:
    """VLMo base, 224 pixels, texts of 196 in the first checkpoint: 1126 rows."""
    config = dataclasses.replace(config, image_size=224, patch_size=16, max_text=196, heads=())
    assert RelativePosition(config).table.shape == (1126, config.num_layers * config.num_heads)


@pytest.mark.parametrize("text_first", [True, False])
def test_every_pair_of_tokens_has_a_row_and_order_only_permutes(text_first: bool) -> None:
    index = distance_index(6, 10, 3, 6, text_first)
    total = num_image_distances(3) + 2 * 6 + 2
    assert index.shape == (16, 16)
    assert index.min() >= 0
    assert index.max() < total
    back = distance_index(6, 10, 3, 6, not text_first)
    split = 6 if text_first else 10
    rolled = torch.arange(16).roll(-split)
    assert torch.equal(index[rolled][:, rolled], back)


def test_a_side_alone_has_the_rows_it_has_in_a_pair() -> None:
    pair = distance_index(5, 10, 3, 6, True)
    assert torch.equal(distance_index(5, 0, 3, 6, True), pair[:5, :5])
    assert torch.equal(distance_index(0, 10, 3, 6, True), pair[5:, 5:])


def test_equal_distances_share_a_row() -> None:
    index = distance_index(0, 10, 3, 6, True)[1:, 1:]
    # one to the right: patches (0,0) -> (0,1) and (2,1) -> (2,2)
    assert index[0, 1] == index[7, 8]
    assert index[0, 1] != index[1, 0]
    assert len(index.unique()) == 25


def test_blocks_and_heads_are_columns(config: ModelConfig) -> None:
    relative = RelativePosition(config)
    columns = config.num_layers * config.num_heads
    with torch.no_grad():
        relative.table[:] = torch.arange(float(columns))
    bias = relative(SequenceRun("questions", 1, 3, 5, True, None, None))
    assert bias.shape == (config.num_layers, config.num_heads, 8, 8)
    assert torch.equal(bias[:, :, 0, 0].flatten(), torch.arange(float(columns)))


def test_an_index_first_made_for_serving_can_be_trained_with(config: ModelConfig) -> None:
    run = SequenceRun("questions", 1, 7, 5, True, None, None)
    relative = RelativePosition(config)
    with torch.inference_mode():
        relative(run)
    relative(run).sum().backward()
    assert relative.table.grad is not None


def test_another_grid_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="images of 8 pixels"):
        RelativePosition(config)(SequenceRun("shapes", 1, 0, 10, True, None, None))
