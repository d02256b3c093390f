import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.fingerprint import model_id, round_to_bf16, space_id, without_defaults
from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.tokenizer import train_wordpiece

Saved = Callable[..., Path]
State = dict[str, Tensor]


def ids(path: Path) -> tuple[str, str | None]:
    opened = open_directory(path)
    return model_id(opened), space_id(opened)


def with_head(config: ModelConfig, head: str, /, **changes: object) -> ModelConfig:
    heads = tuple(dataclasses.replace(h, **changes) if h.name == head else h for h in config.heads)  # type: ignore[arg-type]
    return dataclasses.replace(config, heads=heads)


def touched(state: State, name: str) -> State:
    return {**state, name: state[name] + 1}


def test_ids_are_short_and_readable(saved: Saved) -> None:
    model, space = ids(saved())
    assert re.fullmatch("m-[0-9a-f]{12}", model)
    assert space is not None
    assert re.fullmatch("s-[0-9a-f]{12}", space)


def test_ids_do_not_depend_on_place_shards_card_or_metrics(saved: Saved) -> None:
    first = ids(saved("a"))
    assert ids(saved("b", max_shard_bytes=500, card="other", metrics={"x": 1.0})) == first


def test_ids_do_not_depend_on_the_layout_of_json(saved: Saved) -> None:
    path = saved()
    before = ids(path)
    for name in ("config.json", "tokenizer.json"):
        fields = json.loads((path / name).read_text(encoding="utf-8"))
        (path / name).write_text(json.dumps(dict(reversed(fields.items())), indent=7), encoding="utf-8")
    assert ids(path) == before


def test_a_field_that_a_later_version_adds_changes_no_id(config: ModelConfig) -> None:
    later = dataclasses.make_dataclass(
        "Later", [("novelty", int, 7)], bases=(ModelConfig,), frozen=True, kw_only=True
    )
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    assert without_defaults(later(**fields)) == without_defaults(config)
    assert without_defaults(later(**fields, novelty=8)) == {**without_defaults(config), "novelty": 8}


@pytest.mark.parametrize(
    "name", ["embeddings.words", "encoder.blocks.1.ffn.pools.T.w1", "heads.matching.out.weight"]
)
def test_weights_of_encoder_and_contrastive_head_change_both_ids(
    saved: Saved, state: State, name: str
) -> None:
    before, after = ids(saved("a")), ids(saved("b", state=touched(state, name)))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("name", ["heads.questions.out.weight", "heads.shapes.out.weight"])
def test_weights_of_other_heads_change_the_model_and_not_the_space(
    saved: Saved, state: State, name: str
) -> None:
    before, after = ids(saved("a")), ids(saved("b", state=touched(state, name)))
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_labels_change_the_model_and_not_the_space(saved: Saved, labels: dict[str, list[str]]) -> None:
    before, after = ids(saved("a")), ids(saved("b", labels={**labels, "shapes": ["square", "round"]}))
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_an_exchange_of_two_tensors_changes_both_ids(saved: Saved, state: State) -> None:
    a, b = "encoder.blocks.1.ffn.pools.V.w1", "encoder.blocks.1.ffn.pools.T.w1"
    before, after = ids(saved("a")), ids(saved("b", state={**state, a: state[b], b: state[a]}))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_preprocessing_of_the_contrastive_head_changes_the_space(saved: Saved, config: ModelConfig) -> None:
    before = ids(saved("a"))[1]
    image = dataclasses.replace(config.head("matching").image, resize="bilinear")  # type: ignore[type-var]
    assert ids(saved("b", config=with_head(config, "matching", image=image)))[1] != before
    assert ids(saved("c", config=with_head(config, "matching", max_text=7)))[1] != before
    assert ids(saved("d", config=with_head(config, "questions", image=image)))[1] == before
    draft = dataclasses.replace(config.head("matching").image, jpeg_draft=True)  # type: ignore[type-var]
    assert ids(saved("e", config=with_head(config, "matching", image=draft)))[1] != before


def test_the_tokenizer_changes_both_ids(saved: Saved) -> None:
    before, after = ids(saved("a")), ids(saved("b", tokenizer=train_wordpiece(["other words"], 100)))
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-5}, {"order": "image_first"}, {"top_k": 2}])
def test_the_encoders_configuration_changes_both_ids(
    saved: Saved, config: ModelConfig, changes: dict[str, object]
) -> None:
    before, after = ids(saved("a")), ids(saved("b", config=dataclasses.replace(config, **changes)))  # type: ignore[arg-type]
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_how_the_encoder_was_trained_does_not_change_the_space(saved: Saved, config: ModelConfig) -> None:
    other = dataclasses.replace(config, aux_weight=0.5, router_noise=0.0, drop_path=0.2)
    assert ids(saved("a"))[1] == ids(saved("b", config=other))[1]


def test_a_bf16_copy_is_another_model_in_the_same_space(saved: Saved) -> None:
    full, rounded = ids(saved("a")), ids(saved("b", dtype=torch.bfloat16))
    assert full[0] != rounded[0]
    assert full[1] == rounded[1]


def test_the_name_of_the_head_is_no_part_of_the_space(
    saved: Saved, config: ModelConfig, state: State
) -> None:
    renamed = {name.replace("heads.matching.", "heads.other."): tensor for name, tensor in state.items()}
    path = saved("b", config=with_head(config, "matching", name="other"), state=renamed)
    assert ids(saved("a"))[1] == ids(path)[1]


def test_without_a_contrastive_head_there_is_no_space(
    saved: Saved, config: ModelConfig, state: State
) -> None:
    heads = tuple(head for head in config.heads if head.task != "contrastive")
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("heads.matching.")}
    path = saved(config=dataclasses.replace(config, heads=heads), state=rest)
    assert space_id(open_directory(path)) is None


def test_every_contrastive_head_has_its_own_space(saved: Saved, config: ModelConfig, state: State) -> None:
    second = HeadConfig(name="second", task="contrastive", out_dim=6, image=config.heads[0].image, max_text=8)
    both = dataclasses.replace(config, heads=(*config.heads, second))
    opened = open_directory(saved(config=both, state={**state, "heads.second.out.weight": torch.ones(6, 8)}))
    assert space_id(opened) == space_id(opened, "matching") == space_id(open_directory(saved("alone")))
    assert space_id(opened, "second") not in (None, space_id(opened, "matching"))
    assert space_id(opened, "questions") is None


def test_rounding_is_torchs_rounding() -> None:
    bits = torch.randint(
        -(2**31), 2**31 - 1, (100_000,), generator=torch.Generator().manual_seed(0), dtype=torch.int64
    )
    edges = torch.tensor([0, 0x7F800000, 0x7F7FFFFF, 0x00000001, 0x3F808000, 0x3F818000, 0x3F808001])
    values = torch.cat([bits, edges, edges - 2**31]).to(torch.int32).view(torch.float32)
    values = values[~values.isnan()]
    expected = values.bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(round_to_bf16(values.numpy().tobytes(), "F32"), expected)
    half = values.half()
    np.testing.assert_array_equal(
        round_to_bf16(half.numpy().tobytes(), "F16"),
        half.bfloat16().view(torch.int16).numpy().view(np.uint16),
    )


def test_every_nan_is_the_same_nan() -> None:
    values = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], dtype=np.uint32)
    assert set(round_to_bf16(values.tobytes(), "F32").tolist()) == {0x7FC0}
    assert set(round_to_bf16(np.array([0x7F81, 0xFFC0], np.uint16).tobytes(), "BF16").tolist()) == {0x7FC0}
