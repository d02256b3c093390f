import numpy as np
import pytest

from vlmoe_train.evaluate.drawing_features import concept_similarity, features


def stripes(angle: float, colour: tuple[int, int, int]) -> np.ndarray:
    """Soft stripes of one colour on white."""
    y, x = np.mgrid[:32, :32]
    ink = (np.sin((np.cos(angle) * x + np.sin(angle) * y) * 0.8) + 1) / 2
    return (255 - ink[..., None] * (255 - np.array(colour))).astype(np.uint8)


def test_features_have_length_one_and_do_not_depend_on_the_batch() -> None:
    images = np.stack([stripes(angle, (200, 0, 0)) for angle in (0.0, 0.7, 1.5)])
    found = features(images)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.allclose(features(images[1:2]), found[1:2], atol=1e-6)


def test_direction_and_colour_both_count() -> None:
    red, tilted, green = features(
        np.stack([stripes(0.0, (200, 0, 0)), stripes(1.5, (200, 0, 0)), stripes(0.0, (0, 120, 0))])
    )
    assert red @ tilted < 0.9
    assert red @ green < 0.99
    assert red @ red > 0.999


def test_a_plain_image_is_no_division_by_zero() -> None:
    assert np.isfinite(features(np.full((1, 32, 32, 3), 255, np.uint8))).all()


def test_side_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        features(np.zeros((1, 24, 24, 3), np.uint8))


def test_a_concept_is_as_near_as_its_nearest_drawing() -> None:
    test = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    train = np.array([[0.6, 0.8], [1.0, 0.0], [0.8, 0.6]], np.float32)
    found = concept_similarity(test, train, np.array([0, 0, 2]), 3)
    assert np.allclose(found, [[1.0, -1.0, 0.8], [0.8, -1.0, 0.6]], atol=1e-6)
