import dataclasses

import pytest

from vlmoe_model.presets import PRESETS
from vlmoe_serve.bench.cases import CASES, batch

BASE = PRESETS["vlmoe_base_32e"]


@pytest.mark.parametrize(
    ("name", "sequences", "tokens"),
    [
        ("image1", 1, 197),
        ("image8", 8, 8 * 197),
        ("image32", 32, 32 * 197),
        ("image1_480", 1, 901),
        ("image8_480", 8, 8 * 901),
        ("pair8", 8, 8 * 237),
        ("text32", 32, 32 * 40),
        ("ragged", 24, 4 * 197 + 4 * 237 + 360),
    ],
)
def test_a_case_is_as_large_as_its_name_says(name, sequences, tokens):
    packed = batch(name, BASE)
    assert (len(packed.jobs), packed.num_tokens) == (sequences, tokens)


def test_every_case_fits_a_small_network(config):
    for name in CASES:
        assert batch(name, config).num_tokens > 0


def test_texts_are_cut_to_what_the_network_takes(config):
    assert {run.num_text for run in batch("text32", config).runs} == {config.max_text}


def test_the_same_batch_every_time(config):
    first, second = (batch("pair8", config).runs[0] for _ in range(2))
    assert first.images.equal(second.images)
    assert first.tokens.equal(second.tokens)


def test_pictures_that_cannot_be_cut_into_patches(config):
    odd = dataclasses.replace(config, image_size=28, patch_size=7)
    with pytest.raises(ValueError, match="image1_480: 480 pixels are no multiple of the patches' 7"):
        batch("image1_480", odd)


def test_pictures_that_relative_positions_do_not_know(config):
    relative = dataclasses.replace(config, relative_position=True)
    with pytest.raises(ValueError, match="relative positions are for images of 32 pixels"):
        batch("image8_480", relative)
