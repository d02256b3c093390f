import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlmoe_model.config import ImageSpec
from vlmoe_model.images import load_image
from vlmoe_train.data.jsonl import load
from vlmoe_train.data.samples import DataError

SPEC = ImageSpec(size=4)


def write(folder: Path, *rows: Any) -> Path:
    (folder / "pictures").mkdir(exist_ok=True)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (9, 7), colour).save(folder / "pictures" / f"{name}.png")
    path = folder / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_questions_share_images(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"image": "pictures/red.png", "question": "what color is it?", "answer": "red", "group": "color"},
        "",
        {"image": "pictures/blue.png", "text": "is it red?", "answer": "no"},
        {"image": "pictures/red.png", "question": "is it red?", "answer": "yes"},
    )
    samples = load(path, SPEC)
    assert samples.images.shape == (2, 4, 4, 3)
    assert samples.images[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert samples.image_index.tolist() == [0, 1, 0]
    assert samples.texts == ("what color is it?", "is it red?", "is it red?")
    assert samples.labels == ("no", "red", "yes")
    assert samples.targets.tolist() == [1, 0, 2]
    assert samples.groups == ("color", "", "")


def test_given_labels_are_used_and_unknown_targets_marked(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"image": "pictures/red.png", "label": "b"}, {"image": "pictures/red.png", "label": "c"}
    )
    samples = load(path, SPEC, labels=("b", "a"))
    assert samples.labels == ("b", "a")
    assert samples.targets.tolist() == [0, -1]
    assert samples.texts == ("", "")


def test_captions_are_texts_and_labels(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": "pictures/red.png", "caption": "a red square"})
    samples = load(path, SPEC)
    assert samples.texts == samples.labels == ("a red square",)


def test_texts_need_no_image(tmp_path: Path) -> None:
    samples = load(write(tmp_path, {"text": "prices fell", "label": "economy"}), None)
    assert samples.image_index.tolist() == [-1]
    assert len(samples.images) == 0


def test_a_head_that_wants_drafts_is_trained_on_drafts(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": "pictures/photo.jpg", "label": "x"})
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    photo.save(tmp_path / "pictures" / "photo.jpg")
    draft = dataclasses.replace(SPEC, jpeg_draft=True)
    data = (tmp_path / "pictures" / "photo.jpg").read_bytes()
    assert (load(path, SPEC).images != load(path, draft).images).any()
    np.testing.assert_array_equal(load(path, draft).images[0], load_image(data, draft))


GOOD = {"image": "pictures/red.png", "label": "x"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "Expecting property name"),
        ("[1]", "a row must be an object, got list"),
        ({**GOOD, "lable": "x"}, "unknown key 'lable'; known are image"),
        ({"image": "pictures/red.png"}, "needs one of answer, label, caption"),
        ({"label": "x"}, "needs an image or a text"),
        ({"caption": "x"}, "needs an image"),
        ({**GOOD, "answer": "y"}, "takes only one of answer, label"),
        ({**GOOD, "text": "a", "question": "b"}, "takes only one of question, text"),
        ({"image": "pictures/red.png", "caption": "x", "text": "y"}, "a row with a caption takes no 'text'"),
        ({**GOOD, "label": 3}, "'label' must be a string that is not empty, got 3"),
        ({**GOOD, "text": ""}, "'text' must be a string that is not empty"),
        ({"image": "pictures/red.png", "answer": "x", "text": "?"}, "has 'answer', but line 1 has 'label'"),
        ({**GOOD, "image": "pictures/green.png"}, "pictures/green.png: .*No such file"),
        ({**GOOD, "image": "rows.jsonl"}, "rows.jsonl: not an image of an allowed format"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path, GOOD, "", row)
    with pytest.raises(DataError, match=rf"rows\.jsonl:3: {reason}") as caught:
        load(path, SPEC)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        load(tmp_path / "nothing.jsonl", SPEC)
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    with pytest.raises(DataError, match=r"latin\.jsonl"):
        load(tmp_path / "latin.jsonl", SPEC)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: no rows"):
        load(tmp_path / "empty.jsonl", SPEC)


def test_an_image_for_a_text_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:1: has an image, but the head takes only text"):
        load(write(tmp_path, GOOD), None)
