"""Nearest neighbour on fixed features of drawings: small pixels beside gradient orientations (HOG).

images -> grey, gradients -> 9 unsigned orientations in 8x8 cells     images -> 16x16 pixels
both scaled to unit length, then side by side
"""

# N = images, M = train images, C = concepts, S = side, F = features

import numpy as np
import numpy.typing as npt

_CELLS = 8
_BINS = 9
_PIXELS = 16
# of pixels beside orientations; about the best for drawings, so that the figure to beat is not a weak one
_PIXEL_WEIGHT = 0.7

Features = npt.NDArray[np.float32]


def features(images_NSS3: npt.NDArray[np.uint8]) -> Features:
    """float32 [N, F], each row of length one.

    Raises:
        ValueError: the side is not a multiple of 16.
    """
    side = images_NSS3.shape[1]
    if side % _PIXELS:
        raise ValueError(f"the images' side must be a multiple of {_PIXELS}, got {side}")
    parts = [
        np.concatenate([_PIXEL_WEIGHT * _unit(_pixels(part)), _unit(_orientations(part))], axis=1)
        for part in np.array_split(images_NSS3, max(1, len(images_NSS3) // 512))
    ]
    return _unit(np.concatenate(parts))


def concept_similarity(
    test_NF: Features, train_MF: Features, targets_M: npt.NDArray[np.int64], num_concepts: int
) -> npt.NDArray[np.float64]:
    """float64 [N, C]: the similarity of an image to the nearest train image of each concept; -1 for none."""
    nearest_CN = np.full((num_concepts, len(test_NF)), -1.0)
    similarity_MN = (train_MF @ test_NF.T).astype(np.float64)
    np.maximum.at(nearest_CN, targets_M, similarity_MN)
    return nearest_CN.T


def _pixels(images: npt.NDArray[np.uint8]) -> Features:
    block = images.shape[1] // _PIXELS
    small = images.reshape(len(images), _PIXELS, block, _PIXELS, block, 3).mean(axis=(2, 4), dtype=np.float32)
    flat = small.reshape(len(images), -1)
    centred: Features = flat - flat.mean(axis=1, keepdims=True)
    return centred


def _orientations(images: npt.NDArray[np.uint8]) -> Features:
    grey = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(right, down)
    angle = np.arctan2(down, right) % np.pi
    # each gradient is shared between the two nearest orientations
    place = angle / np.pi * _BINS
    low = np.floor(place).astype(np.int64)
    share = place - low
    block = images.shape[1] // _CELLS
    histogram = np.zeros((len(images), _CELLS, _CELLS, _BINS), np.float32)
    for orientation in range(_BINS):
        weight = strength * (
            np.where(low % _BINS == orientation, 1 - share, 0)
            + np.where((low + 1) % _BINS == orientation, share, 0)
        )
        cells = weight.reshape(len(images), _CELLS, block, _CELLS, block)
        histogram[..., orientation] = cells.sum(axis=(2, 4))
    return np.sqrt(histogram.reshape(len(images), -1))


def _unit(rows: Features) -> Features:
    scaled: Features = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return scaled
