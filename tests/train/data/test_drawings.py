from pathlib import Path

import pytest

from vlmoe_train.data.drawings import STYLES, concepts, drawing_files, on_white, read_drawing
from vlmoe_train.data.samples import DataError
from vlmoe_train.data.scene_language import NOUNS

NUM = len(NOUNS)


def test_concepts_have_no_skin_tones_and_are_sorted(data_root: Path) -> None:
    found = concepts(data_root)
    captions = [concept.caption for concept in found]
    assert len(found) == NUM + 2
    assert captions == sorted(captions)
    assert "waving hand" in captions
    assert not any("skin tone" in caption for caption in captions)
    assert all(concept.tags[1] == "thing" for concept in found)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_matched_by_code_and_decodes(data_root: Path, style: str) -> None:
    files = drawing_files(data_root, style)
    codes = {concept.code for concept in concepts(data_root)}
    # Fluent and Twemoji lack one concept
    assert len(codes & set(files)) == (NUM + 2 if style in ("noto", "openmoji") else NUM + 1)
    drawing = read_drawing(files[sorted(codes)[0]])
    assert drawing.mode == "RGBA"
    assert drawing.getpixel((0, 0))[3] == 0
    white = on_white(drawing)
    assert white.mode == "RGB"
    assert white.getpixel((0, 0)) == (255, 255, 255)
    assert white.getextrema() != ((255, 255),) * 3


@pytest.mark.parametrize("name", ["x.png", "x.svg", "x.webp"])
def test_a_broken_drawing_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not a drawing")
    with pytest.raises(DataError, match=name):
        read_drawing(path)


def test_broken_captions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "raw/emojibase/package/en/data.json"
    path.parent.mkdir(parents=True)
    path.write_text('[{"label": "no code"}]')
    with pytest.raises(DataError, match=r"data\.json: 'hexcode'"):
        concepts(tmp_path)
