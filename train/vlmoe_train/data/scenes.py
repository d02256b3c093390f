"""Composed scenes: emoji drawings on a 3x3 grid, and questions about what is there, how many and where.

    train, val, test: scenes of Noto and Fluent drawings, other scenes in each
    test_unseen: scenes of Twemoji drawings, a style that train never has

These are composed pictures of real artwork, not photographs.
"""

import random
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import prepare
from vlmoe_train.data import drawings, scene_language
from vlmoe_train.data.cache import cached
from vlmoe_train.data.samples import DataError, Samples
from vlmoe_train.data.scene_language import CAPTION_OF, LABELS, Placed, QuestionMaker, draw_scene

SceneSplit = Literal["train", "val", "test", "test_unseen"]

CANVAS = 160
DEFAULT_NUM_TRAIN = 30_000

_NUM_TEST = 1_000
_SEEN = ("noto", "fluent")
_UNSEEN = ("twemoji",)
_SIZES = tuple(range(38, 53, 2))
_DARKEST_GROUND = 215

# noun -> one drawing a style, each at every size of _SIZES
Sprites = dict[str, list[list[Image.Image]]]


def load(
    root: Path,
    split: SceneSplit,
    spec: ImageSpec,
    *,
    num_train: int = DEFAULT_NUM_TRAIN,
) -> Samples:
    """One split; about six questions a scene, groups are their kinds.

    Args:
        root: data directory.
        split: val, test and test_unseen have 1,000 scenes each.
        spec: the head's preprocessing of the 160x160 canvas.
        num_train: scenes of the train split.

    Raises:
        DataError: not fetched, or a drawing is missing or damaged.
    """
    num_scenes = num_train if split == "train" else _NUM_TEST
    styles = _UNSEEN if split == "test_unseen" else _SEEN
    return cached(
        root,
        "scenes",
        split,
        spec,
        lambda: _build(root, split, styles, num_scenes, spec),
        code=(__file__, str(scene_language.__file__), str(drawings.__file__)),
        options=f"{num_scenes} {styles}",
    )


def read_sprites(root: Path, styles: tuple[str, ...]) -> Sprites:
    """Every noun's drawings in the given styles, decoded and resized once.

    Raises:
        DataError: a drawing is missing.
    """
    codes = {concept.caption: concept.code for concept in drawings.concepts(root)}
    files = {style: drawings.drawing_files(root, style) for style in styles}
    sprites: Sprites = {}
    for noun, caption in CAPTION_OF.items():
        code = codes.get(caption, "")
        paths = [found[code] for found in files.values() if code in found]
        if not paths:
            raise DataError(f"no drawing of {caption!r} in the styles {', '.join(styles)}")
        originals = [drawings.read_drawing(path) for path in paths]
        sprites[noun] = [
            [original.resize((size, size), Image.Resampling.LANCZOS) for size in _SIZES]
            for original in originals
        ]
    return sprites


def render(rng: random.Random, scene: tuple[Placed, ...], sprites: Sprites) -> Image.Image:
    """Paint a scene: each object in a random style and size, at a random place within its cell."""
    ground = tuple(rng.randint(_DARKEST_GROUND, 255) for _ in range(3))
    canvas = Image.new("RGB", (CANVAS, CANVAS), ground)
    for placed in scene:
        sprite = rng.choice(rng.choice(sprites[placed.noun]))
        slack = CANVAS / 3 - sprite.width
        left = int(placed.column * CANVAS / 3 + rng.random() * slack)
        top = int(placed.row * CANVAS / 3 + rng.random() * slack)
        canvas.paste(sprite, (left, top), sprite)
    return canvas


def _build(root: Path, split: str, styles: tuple[str, ...], num_scenes: int, spec: ImageSpec) -> Samples:
    sprites = read_sprites(root, styles)
    # a text seed, because Python hashes it the same on every machine
    rng = random.Random(f"scenes {split}")
    maker = QuestionMaker(rng)
    images = np.empty((num_scenes, spec.size, spec.size, 3), np.uint8)
    image_index, texts, targets, groups = [], [], [], []
    target_of = {label: target for target, label in enumerate(LABELS)}
    for place in range(num_scenes):
        scene = draw_scene(rng)
        images[place] = prepare(render(rng, scene, sprites), spec)
        for question in maker.ask(scene):
            image_index.append(place)
            texts.append(question.text)
            targets.append(target_of[question.answer])
            groups.append(question.kind)
    return Samples(
        images=images,
        image_index=np.array(image_index, np.int64),
        texts=tuple(texts),
        targets=np.array(targets, np.int64),
        labels=LABELS,
        groups=tuple(groups),
    )
