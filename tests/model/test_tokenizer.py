import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_model.errors import CheckpointError
from vlmoe_model.tokenizer import SPECIAL_TOKENS, Tokenizer, train_wordpiece

TEXTS = ["what shape is in the image", "is there a red circle in the café", "two sleeping cats"]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_wordpiece(TEXTS, 200)


def test_special_tokens_are_the_first_ids(trained: Tokenizer) -> None:
    assert trained.tokens([0, 1, 2, 3, 4]) == SPECIAL_TOKENS
    assert (trained.pad_id, trained.unk_id, trained.cls_id, trained.sep_id, trained.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )


def test_encode_frames_a_text_and_a_pair(trained: Tokenizer) -> None:
    one, two = trained.encode("red circle"), trained.encode("red circle", "two cats")
    assert one.dtype == np.int32
    assert trained.tokens(one) == ("[T_CLS]", "red", "circle", "[T_SEP]")
    assert trained.tokens(two) == ("[T_CLS]", "red", "circle", "[T_SEP]", "two", "cats", "[T_SEP]")


def test_case_and_accents_do_not_matter(trained: Tokenizer) -> None:
    np.testing.assert_array_equal(trained.encode("RED CAFÉ"), trained.encode("red cafe"))


def test_decode_gives_the_text_back(trained: Tokenizer) -> None:
    assert trained.decode(trained.encode("is there a red circle")) == "is there a red circle"


def test_unknown_characters_become_unk(trained: Tokenizer) -> None:
    assert trained.tokens(trained.encode("\u6f22")) == ("[T_CLS]", "[UNK]", "[T_SEP]")


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_a_user_cannot_type_special_tokens(trained: Tokenizer, token: str) -> None:
    inside = trained.encode(f"red {token} circle")[1:-1]
    # ids of [UNK] may occur: its brackets are not in this vocabulary
    assert not {0, 2, 3, 4} & set(inside.tolist())


def test_an_empty_text_is_its_frame(trained: Tokenizer) -> None:
    assert trained.encode("").tolist() == [2, 3]


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(), max_size=50))
def test_any_text_encodes_to_known_ids(text: str) -> None:
    tokenizer = train_wordpiece(TEXTS, 200)
    for variant in (text, text + "\ud800"):
        ids = tokenizer.encode(variant)
        assert ((ids >= 0) & (ids < tokenizer.vocab_size)).all()


def test_roundtrip_through_the_file(trained: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(trained.to_str(), encoding="utf-8")
    loaded = Tokenizer.load(file)
    assert loaded.vocab_size == trained.vocab_size
    np.testing.assert_array_equal(
        loaded.encode("a red [MASK]", "cats"), trained.encode("a red [MASK]", "cats")
    )


def test_vocabulary_stays_within_the_limit() -> None:
    assert train_wordpiece(TEXTS * 10, 60).vocab_size <= 60


def test_training_is_the_same_in_every_process(trained: Tokenizer) -> None:
    code = (
        "import sys; from vlmoe_model.tokenizer import train_wordpiece;"
        f"sys.stdout.buffer.write(train_wordpiece({TEXTS!r}, 200).to_str().encode())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    assert other == trained.to_str()


def test_threads_share_one_tokenizer(trained: Tokenizer) -> None:
    texts = [f"red circle {'cats ' * i}" for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(trained.encode, texts))
    for text, ids in zip(texts, together, strict=True):
        np.testing.assert_array_equal(ids, trained.encode(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a tokenizer"),
        ("{}", "not a tokenizer"),
        ("[1, 2", "not a tokenizer"),
        ('{"model": 3}', "not a tokenizer"),
        ('{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "[UNK]": 1}, '
         '"unk_token": "[UNK]"}}', r"lacks \[T_CLS\], \[T_SEP\], \[MASK\]"),
    ],
)  # fmt: skip
def test_foreign_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.load(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_a_binary_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Tokenizer.load(tmp_path / "binary")
