import pytest
import torch
from torch import nn

from vlmoe_model.stems.conv import ConvStem


@pytest.mark.parametrize("patch_size", [2, 4, 16])
def test_one_vector_a_patch(patch_size: int) -> None:
    stem = ConvStem(24, patch_size)
    assert stem(torch.randn(2, 3, 3 * patch_size, 3 * patch_size)).shape == (2, 9, 24)


def test_a_patch_depends_on_its_neighbourhood_and_stands_at_its_place() -> None:
    # with some weights a neighbouring patch changes more
    torch.manual_seed(0)
    stem, image = ConvStem(8, 4), torch.zeros(1, 3, 32, 32)
    changed = image.clone()
    changed[..., 1, 30] = 1.0
    distance = (stem(image) - stem(changed)).abs().sum(-1).view(8, 8)
    assert distance.argmax() == 7
    assert (distance[3:] == 0).all()


@torch.no_grad()
def test_training_and_serving_see_the_same_patches() -> None:
    stem, images = ConvStem(8, 4), torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(stem.train()(images), stem.eval()(images))


def test_widths_grow_to_the_models() -> None:
    convs = [module for module in ConvStem(64, 16).modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [8, 16, 32, 64, 64]


@pytest.mark.parametrize("patch_size", [1, 12])
def test_a_patch_that_strides_cannot_make_is_refused(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"power of two, got {patch_size}"):
        ConvStem(8, patch_size)
