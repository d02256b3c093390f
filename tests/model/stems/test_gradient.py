import math
from collections.abc import Iterator

import pytest
import torch

from vlmoe_kernels import backend
from vlmoe_model.stems.gradient import BINS, EPSILON, GradientStem, gradient_cells


def ramp(angle: float, side: int = 16) -> torch.Tensor:
    """Grey that rises by 0.1 a pixel in one direction."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grey = 0.1 * (math.cos(angle) * x + math.sin(angle) * y)
    return grey.float().expand(1, 3, side, side)


@pytest.mark.parametrize("orientation", range(BINS))
def test_a_ramp_falls_into_the_bin_of_its_direction(orientation: int) -> None:
    angle = orientation * math.pi / BINS
    # a direction and its opposite are one orientation
    for turned in (angle, angle + math.pi):
        histogram = gradient_cells(ramp(turned), 4)[0, :BINS]
        # inside, away from the replicated border
        inner = histogram[:, 1:-1, 1:-1]
        assert (inner.argmax(0) == orientation).all()
        assert inner[orientation].min() > 0.9


def test_between_two_bins_both_have_a_half() -> None:
    inner = gradient_cells(ramp(1.5 * math.pi / BINS, 24), 4)[0, :BINS, 2:-2, 2:-2]
    # the square root of half of the energy, less the epsilon
    expected = math.sqrt(0.5 * 0.2 / (0.2 + EPSILON))
    torch.testing.assert_close(inner[1:3], torch.full((2, 2, 2), expected), atol=1e-3, rtol=0)
    assert inner[3:].max() < 1e-2


def test_a_plain_image_has_no_gradient_and_its_own_colour() -> None:
    image = torch.tensor([0.5, -1.0, 0.25]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    cells = gradient_cells(image, 4)
    assert (cells[:, :BINS] == 0).all()
    assert cells[0, BINS:, 1, 1].tolist() == [0.5, -1.0, 0.25]


def test_the_strongest_channel_speaks() -> None:
    image = torch.cat([ramp(0.0)[:, :1], 3 * ramp(math.pi / 3)[:, :1], ramp(0.0)[:, :1]], dim=1)
    assert (gradient_cells(image, 4)[0, :BINS, 1:-1, 1:-1].argmax(0) == 3).all()


def test_one_vector_a_patch_and_a_gradient_for_the_matrix_only() -> None:
    stem, images = GradientStem(10, 8), torch.randn(2, 3, 24, 24, requires_grad=True)
    out = stem(images)
    assert out.shape == (2, 9, 10)
    out.sum().backward()
    assert stem.proj.weight.grad is not None
    assert images.grad is None


def test_a_patch_has_its_own_cells() -> None:
    stem, image = GradientStem(10, 8), torch.zeros(1, 3, 32, 32)
    changed = image.clone()
    changed[..., 20, 4] = 1.0
    distance = (stem(image) - stem(changed)).abs().sum(-1).view(4, 4)
    assert distance.argmax() == 2 * 4
    assert distance[0].max() == distance[:, 3].max() == 0


def test_packed_for_any_cpu_it_says_the_same(cpu_backend: str) -> None:
    stem, images = GradientStem(10, 8), torch.rand(2, 3, 24, 24)
    expected = stem(images)
    stem.pack(backend(cpu_backend))
    torch.testing.assert_close(stem(images), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", [12, 100])
def test_an_image_has_the_same_bits_anywhere_in_a_batch(threads: int, side: int) -> None:
    """Sides for which images end inside a vector, and batches which threads cut inside an image."""
    images = torch.rand(13, 3, side, side)
    whole = gradient_cells(images, 1 if side == 12 else 4)
    for n in range(13):
        assert torch.equal(gradient_cells(images[n : n + 1].clone(), 1 if side == 12 else 4)[0], whole[n])


def test_a_patch_that_does_not_split_into_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        GradientStem(8, 6)
