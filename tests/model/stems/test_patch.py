import torch
import torch.nn.functional as F

from vlmoe_model.stems.patch import PatchStem, unfold_cells


def test_a_patch_stem_is_a_convolution_with_its_weight_flattened() -> None:
    """So the weight of a public checkpoint, [D, 3, P, P], is reshaped and no more."""
    stem, images = PatchStem(6, 4), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        stem.proj.bias.copy_(torch.randn(6))
    expected = F.conv2d(images, stem.proj.weight.view(6, 3, 4, 4), stem.proj.bias, stride=4)
    torch.testing.assert_close(stem(images), expected.flatten(2).transpose(1, 2))


def test_cells_of_a_patch_stand_together() -> None:
    maps = torch.arange(2 * 2 * 6 * 6).view(2, 2, 6, 6)
    rows = unfold_cells(maps, 3)
    assert rows.shape == (18, 8)
    # image 1, patch (2, 0): both channels of its 2 x 2 cells
    assert rows[9 + 6].tolist() == maps[1, :, 4:6, 0:2].flatten().tolist()
