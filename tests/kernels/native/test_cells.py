"""Orientation histograms in one pass, against the stem's own in torch."""

import pytest
import torch

from vlmoe_kernels.native import gradient_cells
from vlmoe_model.stems import gradient

pytestmark = pytest.mark.usefixtures("native")


def both(images: torch.Tensor, cell: int) -> tuple[torch.Tensor, torch.Tensor]:
    return gradient_cells(images, cell, gradient.EPSILON), gradient.gradient_cells(images, cell)


@pytest.mark.parametrize(("side", "cell"), [(1, 1), (4, 4), (12, 1), (17, 1), (36, 3), (96, 4), (100, 5)])
@pytest.mark.parametrize("num", [1, 5])
def test_as_torch(threads: int, num: int, side: int, cell: int) -> None:
    torch.manual_seed(side)
    found, expected = both(torch.randn(num, 3, side, side), cell)
    # the root is steep at zero: there a rounding of the angle is seen
    torch.testing.assert_close(found.square(), expected.square(), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(found[:, 9:], expected[:, 9:], rtol=1e-5, atol=1e-6)


def test_directions_along_the_axes_and_between_and_none_at_all() -> None:
    steps = torch.tensor([0.0, 1.0, 0.0, 0.0, -1.0, -1.0, 2.0, 0.0])
    images = torch.stack([steps.expand(3, 8, 8), steps.view(8, 1).expand(3, 8, 8), torch.zeros(3, 8, 8)])
    images = torch.cat([images, images[:1] + images[1:2], images[:1] - images[1:2]])
    found, expected = both(images, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found[2] == 0).all()


def test_of_equally_strong_channels_the_first_speaks() -> None:
    ramp = torch.arange(8.0).expand(8, 8)
    found, expected = both(torch.stack([ramp, ramp.T, ramp]).unsqueeze(0), 4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found[0, :9].argmax(0) == 0).all()


@pytest.mark.parametrize("side", [12, 100])
def test_an_image_has_the_same_bits_anywhere_in_a_batch(threads: int, side: int) -> None:
    images = torch.rand(13, 3, side, side)
    whole = gradient_cells(images, 4, gradient.EPSILON)
    for n in range(13):
        assert torch.equal(gradient_cells(images[n : n + 1].clone(), 4, gradient.EPSILON)[0], whole[n])


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 3, 8, 12), (1, 3, 10, 10)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="S a multiple of 4, got"):
        gradient_cells(torch.zeros(shape), 4, gradient.EPSILON)
    with pytest.raises(ValueError, match="float64"):
        gradient_cells(torch.zeros(1, 3, 8, 8, dtype=torch.float64), 4, gradient.EPSILON)
