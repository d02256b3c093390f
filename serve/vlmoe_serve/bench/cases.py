"""Batches by name: random pictures and texts in the shapes that the name says."""

# N = sequences, S = image side, L = text tokens

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import Packed, SequenceRun, assemble

# no head: the encoder alone is measured
NO_HEAD = "none"
TEXT_TOKENS = 40
SHORTEST_TEXT = 5


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences of one shape. image: its side in pixels, 0 for none, None for the model's own; text: tokens."""

    num_sequences: int
    image: int | None
    text: int


def _texts(num: int) -> list[Shape]:
    """Texts whose lengths lie evenly between the shortest and the longest."""
    step = (TEXT_TOKENS - SHORTEST_TEXT) / (num - 1)
    return [Shape(1, 0, round(SHORTEST_TEXT + step * i)) for i in range(num)]


CASES: Mapping[str, Sequence[Shape]] = {
    "image1": [Shape(1, None, 0)],
    "image8": [Shape(8, None, 0)],
    "image32": [Shape(32, None, 0)],
    "image1_480": [Shape(1, 480, 0)],
    "image8_480": [Shape(8, 480, 0)],
    "pair8": [Shape(8, None, TEXT_TOKENS)],
    "text32": [Shape(32, 0, TEXT_TOKENS)],
    "ragged": [Shape(4, None, 0), Shape(4, None, TEXT_TOKENS), *_texts(16)],
}


def batch(name: str, config: ModelConfig) -> Packed:
    """The batch of that name for a network; texts are cut to its longest.

    Raises:
        KeyError: there is none of that name.
        ValueError: the network takes no pictures of that size.
    """
    random = torch.Generator().manual_seed(0)
    runs = []
    for shape in CASES[name]:
        n, side = shape.num_sequences, config.image_size if shape.image is None else shape.image
        text = min(shape.text, config.max_text)
        if side % config.patch_size:
            raise ValueError(f"{name}: {side} pixels are no multiple of the patches' {config.patch_size}")
        if side not in (0, config.image_size) and config.relative_position:
            raise ValueError(f"{name}: relative positions are for images of {config.image_size} pixels")
        runs.append(
            SequenceRun(
                head=NO_HEAD,
                num_sequences=n,
                num_text=text,
                num_image=(side // config.patch_size) ** 2 + 1 if side else 0,
                text_first=config.order == "text_first",
                images=torch.randn(n, 3, side, side, generator=random) if side else None,
                tokens=torch.randint(config.vocab_size, (n, text), generator=random) if text else None,
            )
        )
    return assemble(runs, range(sum(run.num_sequences for run in runs)))
