import pytest
import torch

from vlmoe_train.augment import AUGMENTS


@pytest.mark.parametrize("name", AUGMENTS)
def test_shape_range_and_seed(name: str):
    images = torch.rand(9, 3, 24, 24) * 2 - 1
    torch.manual_seed(3)
    first = AUGMENTS[name](images)
    torch.manual_seed(3)
    again = AUGMENTS[name](images)
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert first.abs().max() <= 1.0 + 1e-5


@pytest.mark.parametrize("name", [name for name in AUGMENTS if name != "none"])
def test_it_changes_most_images_and_leaves_its_input_alone(name: str):
    images = torch.rand(64, 3, 24, 24) * 2 - 1
    before = images.clone()
    torch.manual_seed(0)
    changed = (AUGMENTS[name](images) != images).flatten(1).any(dim=1).float().mean()
    assert torch.equal(images, before)
    assert 0.5 < changed <= 1.0


def test_affine_moves_content_by_little():
    images = -torch.ones(32, 3, 40, 40)
    images[:, :, 15:25, 15:25] = 1.0
    torch.manual_seed(0)
    moved = AUGMENTS["affine"](images)
    grid = torch.arange(40.0)
    mass = (moved[:, 0] + 1).clamp_min(0)
    centre_x = (mass.sum(1) * grid).sum(1) / mass.sum((1, 2))
    assert (centre_x - 19.5).abs().max() < 0.05 * 40 + 1.0
