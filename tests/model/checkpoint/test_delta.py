import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.checkpoint.header import read_header
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.tokenizer import Tokenizer

Saved = Callable[..., Path]
State = dict[str, Tensor]


@pytest.fixture
def tuned(state: State) -> State:
    """What fine-tuning with frozen experts leaves: a new head and a new norm."""
    changed = {"heads.questions.out.weight", "encoder.norm.weight"}
    return {name: tensor * 2 if name in changed else tensor.clone() for name, tensor in state.items()}


@pytest.fixture
def save_tuned(
    config: ModelConfig, tokenizer: Tokenizer, labels: dict[str, list[str]], tuned: State
) -> Callable[..., None]:
    def build(directory: Path, base: Path, **changes: Any) -> None:
        arguments = {"config": config, "state": tuned, "tokenizer": tokenizer, "labels": labels, **changes}
        save_delta(directory, base, **arguments)

    return build


def edit_base(delta: Path, **fields: Any) -> None:
    file = delta / "base.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_only_what_changed_is_stored_and_everything_is_loaded(
    saved: Saved, save_tuned: Callable[..., None], tuned: State, tmp_path: Path
) -> None:
    base, delta = saved("base"), tmp_path / "delta"
    save_tuned(delta, base)
    assert set(read_header(delta / "model.safetensors")) == {
        "heads.questions.out.weight",
        "encoder.norm.weight",
    }
    loaded = load_state(delta, expected={name: tuple(tensor.shape) for name, tensor in tuned.items()})
    assert loaded.keys() == tuned.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tuned.items())
    share = load_state(delta, experts={(1, "V"): [2, 3], (1, "T"): [0]})
    assert torch.equal(share["encoder.blocks.1.ffn.pools.V.w1"], tuned["encoder.blocks.1.ffn.pools.V.w1"][2:])


def test_a_delta_has_the_ids_of_the_whole(
    saved: Saved, save_tuned: Callable[..., None], tuned: State, tmp_path: Path
) -> None:
    save_tuned(tmp_path / "delta", saved("base"))
    delta, whole = open_directory(tmp_path / "delta"), open_directory(saved("whole", state=tuned))
    assert model_id(delta) == model_id(whole) != model_id(open_directory(saved("base")))
    assert space_id(delta) == space_id(whole)


def test_the_base_is_named_with_its_id_and_place(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path
) -> None:
    base = saved("base")
    save_tuned(tmp_path / "delta", base)
    opened = open_directory(tmp_path / "delta")
    assert opened.base is not None
    assert (opened.base.model_id, opened.base.path) == (model_id(open_directory(base)), base.resolve())
    assert json.loads((tmp_path / "delta" / "base.json").read_text())["path"] == "../base"


def test_both_may_move_together(saved: Saved, save_tuned: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    base = saved("here/base")
    save_tuned(tmp_path / "here" / "delta", base)
    (tmp_path / "here").rename(tmp_path / "there")
    assert open_directory(tmp_path / "there" / "delta").tensors


def test_a_far_base_is_found_through_bases_only(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path
) -> None:
    base = saved("far/away/base")
    save_tuned(tmp_path / "near" / "delta", base)
    assert "path" not in json.loads((tmp_path / "near" / "delta" / "base.json").read_text())
    with pytest.raises(CheckpointError, match=r"needs the base m-.*, but no checkpoint at any given place"):
        open_directory(tmp_path / "near" / "delta")
    other = saved("far/other", card="another", state={})
    assert open_directory(tmp_path / "near" / "delta", bases=[tmp_path / "none", other, base]).tensors


def test_a_wrong_base_is_refused_with_both_ids(
    saved: Saved, save_tuned: Callable[..., None], state: State, tmp_path: Path
) -> None:
    base = saved("base")
    save_tuned(tmp_path / "delta", base)
    right = model_id(open_directory(base))
    saved("base", state={**state, "embeddings.words": state["embeddings.words"] + 1})
    wrong = model_id(open_directory(base))
    with pytest.raises(CheckpointError, match=rf"base\.json: needs the base {right}, but .*base is {wrong}"):
        open_directory(tmp_path / "delta")
    right_one = saved("elsewhere")
    assert open_directory(tmp_path / "delta", bases=[right_one]).tensors


def test_a_missing_base_names_where_it_was_sought(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path
) -> None:
    base = saved("base")
    save_tuned(tmp_path / "delta", base)
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match=r"but no checkpoint at .*base"):
        open_directory(tmp_path / "delta")


def test_heads_may_come_and_go(
    saved: Saved,
    save_tuned: Callable[..., None],
    config: ModelConfig,
    tuned: State,
    labels: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    heads = tuple(
        dataclasses.replace(head, name="animals") if head.name == "shapes" else head for head in config.heads
    )
    state = {name.replace("heads.shapes.", "heads.animals."): tensor for name, tensor in tuned.items()}
    renamed = {name.replace("shapes", "animals"): names for name, names in labels.items()}
    save_tuned(
        tmp_path / "delta",
        saved("base"),
        config=dataclasses.replace(config, heads=heads),
        state=state,
        labels=renamed,
    )
    assert load_state(tmp_path / "delta").keys() == state.keys()


def test_a_reshaped_tensor_is_a_changed_one(
    saved: Saved, save_tuned: Callable[..., None], config: ModelConfig, tuned: State, tmp_path: Path
) -> None:
    wider = {**tuned, "embeddings.words": torch.ones(200, 8)}
    config = dataclasses.replace(config, vocab_size=200)
    save_tuned(tmp_path / "delta", saved("base"), state=wider, config=config)
    assert load_state(tmp_path / "delta")["embeddings.words"].shape == (200, 8)


def test_frozen_weights_of_a_bf16_base_are_not_stored_again_in_fp32(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path
) -> None:
    base = saved("base", dtype=torch.bfloat16)
    state = {name: tensor.float() for name, tensor in load_state(base).items()}
    state["encoder.norm.weight"] = state["encoder.norm.weight"] + 1
    save_tuned(tmp_path / "delta", base, state=state)
    assert set(read_header(tmp_path / "delta" / "model.safetensors")) == {"encoder.norm.weight"}


def test_minus_zero_is_a_change(
    saved: Saved, save_tuned: Callable[..., None], state: State, tmp_path: Path
) -> None:
    zero = {**state, "encoder.norm.weight": torch.zeros(1, 8)}
    base = saved("base", state=zero)
    save_tuned(tmp_path / "delta", base, state={**zero, "encoder.norm.weight": -torch.zeros(1, 8)})
    assert set(read_header(tmp_path / "delta" / "model.safetensors")) == {"encoder.norm.weight"}


def test_nothing_changed_is_an_empty_delta(
    saved: Saved, save_tuned: Callable[..., None], state: State, tmp_path: Path
) -> None:
    base = saved("base")
    save_tuned(tmp_path / "delta", base, state=state)
    assert read_header(tmp_path / "delta" / "model.safetensors") == {}
    assert model_id(open_directory(tmp_path / "delta")) == model_id(open_directory(base))


def test_a_delta_may_stand_on_a_delta(
    saved: Saved, save_tuned: Callable[..., None], tuned: State, tmp_path: Path
) -> None:
    save_tuned(tmp_path / "one", saved("base"))
    second = {**tuned, "heads.shapes.out.weight": torch.ones(2, 8)}
    save_tuned(tmp_path / "two", tmp_path / "one", state=second)
    assert set(read_header(tmp_path / "two" / "model.safetensors")) == {"heads.shapes.out.weight"}
    loaded = load_state(tmp_path / "two")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in second.items())


def test_a_ring_of_deltas_ends(saved: Saved, save_tuned: Callable[..., None], tmp_path: Path) -> None:
    save_tuned(tmp_path / "one", saved("base"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    edit_base(tmp_path / "one", path="../two")
    edit_base(tmp_path / "two", path="../one")
    with pytest.raises(CheckpointError, match="more than 8 deltas on top of each other"):
        open_directory(tmp_path / "one")


@pytest.mark.parametrize("hint", ["../../elsewhere", "/etc", "..", "../delta/../../x"])
def test_the_hint_cannot_lead_away(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path, hint: str
) -> None:
    save_tuned(tmp_path / "delta", saved("base"))
    edit_base(tmp_path / "delta", path=hint)
    with pytest.raises(CheckpointError, match=r"base\.json: the path .* leads out of"):
        open_directory(tmp_path / "delta")


@pytest.mark.parametrize("fields", [{"model_id": None}, {"path": 3}, {"removed": "all"}, {"removed": [1]}])
def test_a_damaged_base_file_is_refused(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path, fields: dict[str, Any]
) -> None:
    save_tuned(tmp_path / "delta", saved("base"))
    edit_base(tmp_path / "delta", **fields)
    with pytest.raises(CheckpointError, match=r"base\.json: must hold model_id"):
        open_directory(tmp_path / "delta")


@pytest.mark.parametrize("hint", ["x" * 5000, "zero\0byte"])
def test_an_impossible_hint_is_an_error_of_the_checkpoint(
    saved: Saved, save_tuned: Callable[..., None], tmp_path: Path, hint: str
) -> None:
    save_tuned(tmp_path / "delta", saved("base"))
    edit_base(tmp_path / "delta", path=hint)
    with pytest.raises(CheckpointError):
        open_directory(tmp_path / "delta")


def test_a_delta_cannot_take_the_place_of_its_base(saved: Saved, save_tuned: Callable[..., None]) -> None:
    base = saved("base")
    with pytest.raises(ValueError, match="cannot take the place of its own base"):
        save_tuned(base, base)
    assert open_directory(base).base is None
