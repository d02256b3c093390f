import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.errors import CheckpointError

SPEC = ImageSpec(size=8)


def test_roundtrip_through_json(config: ModelConfig) -> None:
    assert ModelConfig.from_json(config.to_json()) == config
    other = dataclasses.replace(
        config, vl_start=None, capacity_eval=1.5, layer_scale=0.1, stem="conv", heads=()
    )
    assert ModelConfig.from_json(other.to_json()) == other


def test_defaults_may_be_left_out(config: ModelConfig) -> None:
    fields = json.loads(config.to_json())
    del fields["norm_eps"], fields["heads"][0]["pool"], fields["heads"][0]["image"]["crop"]
    assert ModelConfig.from_json(json.dumps(fields)) == config


def test_head_is_found_by_name(config: ModelConfig) -> None:
    assert config.head("shapes").task == "image_classification"
    with pytest.raises(KeyError, match="no head 'nope'; heads: questions, shapes"):
        config.head("nope")


def test_derived_sizes(config: ModelConfig) -> None:
    assert (config.head_dim, config.grid) == (4, 2)


def test_the_dense_twin_has_no_experts(config: ModelConfig) -> None:
    twin = config.dense_twin()
    assert (twin.moe_blocks, twin.num_experts, twin.top_k) == ((), 1, 1)
    assert twin.heads == config.heads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim must be in"),
        ({"dim": 9}, "dim 9 is not a multiple of num_heads 2"),
        ({"num_layers": 10**9}, r"num_layers must be in \[1, 1024\]"),
        ({"image_size": 9}, "image_size 9 is not a multiple of patch_size 4"),
        ({"top_k": 5}, r"top_k must be in \[1, 4\], got 5"),
        ({"moe_blocks": (2,)}, r"moe_blocks must lie in \[0, 1\], got 2"),
        ({"moe_blocks": (1, 1)}, "names a block twice"),
        ({"vl_start": 3}, r"vl_start must be in \[0, 2\]"),
        ({"router": "best"}, "router must be one of top_k"),
        ({"aux_loss": "best"}, "aux_loss must be one of"),
        ({"stem": "best"}, "stem must be one of patch, conv, gradient"),
        ({"order": "best"}, "order must be one of text_first, image_first"),
        ({"capacity_eval": 0.0}, "capacity_eval must be positive or null"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"norm_eps": 0.0}, "norm_eps must be positive"),
        ({"position_offset": -1}, "position_offset must be in"),
        ({"max_text": 5}, "max_text of head 'questions' exceeds the encoder's 5"),
    ],
)
def test_values_out_of_range_are_refused(config: ModelConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "poetry"}, "must be one of vqa"),
        ({"pool": "max"}, "must be one of cls, mean, flatten"),
        ({"name": "../up"}, "must be an identifier"),
        ({"out_dim": 0}, "out_dim of head 'h' must be in"),
        ({"hidden": -1}, "hidden of head 'h' must be in"),
        ({"image": None}, "needs image preprocessing"),
        ({"max_text": 2}, "needs max_text of at least 3"),
        ({"task": "image_classification", "max_text": -1}, "must not be negative"),
    ],
)
def test_impossible_heads_are_refused(fields: dict[str, Any], message: str) -> None:
    whole = {"name": "h", "task": "vqa", "out_dim": 2, "image": SPEC, "max_text": 5, **fields}
    with pytest.raises(ValueError, match=message):
        HeadConfig(**whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "image size must be in"),
        ({"size": 5000}, "image size must be in"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"resize": "nearest"}, "resize must be one of bicubic, bilinear"),
        ({"crop": "face"}, "crop must be one of none, content"),
        ({"crop": "content", "jpeg_draft": True}, "jpeg_draft goes with crop none"),
    ],
)
def test_impossible_preprocessing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSpec(**{"size": 8, **fields})


def test_heads_must_fit_the_encoder_and_each_other(config: ModelConfig) -> None:
    head = config.heads[0]
    with pytest.raises(ValueError, match="two heads share a name"):
        dataclasses.replace(config, heads=(head, head))
    wide = dataclasses.replace(head, image=ImageSpec(size=10))
    with pytest.raises(ValueError, match="image size 10 of head 'questions' is not a multiple of"):
        dataclasses.replace(config, heads=(wide,))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "{", "[" * 100_000, '{"dim": 1e999}', '{"dim": ' + "9" * 5000 + "}"]
)
def test_foreign_text_is_one_line_with_the_file(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^some/config\.json: [^\n]+$"):
        ModelConfig.from_json(text, "some/config.json")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [field.name for field in dataclasses.fields(ModelConfig)]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KEYS), junk)
def test_a_damaged_field_is_refused_or_gives_a_usable_config(key: str, value: Any) -> None:
    base = ModelConfig(
        dim=8, num_layers=2, num_heads=2, ffn_dim=16, vocab_size=50, image_size=8, patch_size=4, max_text=8
    )
    fields = {**json.loads(base.to_json()), key: value}
    try:
        read = ModelConfig.from_json(json.dumps(fields))
    except CheckpointError as error:
        message = str(error)
    else:
        message = ""
        assert ModelConfig.from_json(read.to_json()) == read
    assert "\n" not in message
