import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.experts import is_expert, pool_of
from vlmoe_model.checkpoint.header import read_header
from vlmoe_model.checkpoint.weights import load_state, read_tensors
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.tokenizer import train_wordpiece

Saved = Callable[..., Path]
State = dict[str, Tensor]


def shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def assert_equal(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.mark.parametrize("shard_bytes", [2**30, 3000, 1])
def test_roundtrip_is_exact_in_any_number_of_shards(saved: Saved, state: State, shard_bytes: int) -> None:
    path = saved(max_shard_bytes=shard_bytes)
    files = list(path.glob("*.safetensors"))
    assert len(files) == {2**30: 1, 3000: 5, 1: len(state)}[shard_bytes]
    assert_equal(load_state(path, expected=shapes(state)), state)


def test_shards_keep_to_the_limit(saved: Saved) -> None:
    path = saved(max_shard_bytes=4000)
    for file in open_directory(path).weight_files:
        header = int.from_bytes(file.read_bytes()[:8], "little")
        assert file.stat().st_size - header - 8 <= 4000


def test_weights_may_be_read_by_whoever_may_read_the_configuration(saved: Saved) -> None:
    path = saved(max_shard_bytes=3000)
    assert {file.stat().st_mode for file in path.glob("*.safetensors")} == {
        (path / "config.json").stat().st_mode
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtype_is_what_tensors_are_stored_as(saved: Saved, state: State, dtype: torch.dtype) -> None:
    loaded = load_state(saved(dtype=dtype))
    assert_equal(loaded, {name: tensor.to(dtype) for name, tensor in state.items()})


def test_without_dtype_tensors_keep_their_own(saved: Saved, state: State) -> None:
    mixed = {**state, "embeddings.words": state["embeddings.words"].bfloat16()}
    assert_equal(load_state(saved(state=mixed)), mixed)


def test_parameters_views_and_shared_memory_are_stored_as_values(saved: Saved, state: State) -> None:
    base = torch.arange(64.0).reshape(8, 8)
    odd = {**state, "a": torch.nn.Parameter(base), "b": base.T, "c": base[::2, 1:3], "d": base}
    loaded = load_state(saved(state=odd))
    assert_equal(loaded, {name: tensor.detach() for name, tensor in odd.items()})


def test_loaded_tensors_do_not_share_memory_with_a_second_load(saved: Saved, state: State) -> None:
    path = saved()
    first = load_state(path)
    first["embeddings.words"].zero_()
    assert_equal(load_state(path), state)


@pytest.mark.parametrize(
    "rows",
    [[], [0], [3], [0, 1, 2, 3], [1, 2], [0, 2, 3], [0, 1, 3]],
    ids=lambda rows: "".join(map(str, rows)),
)
def test_of_the_experts_only_those_asked_for_are_read(
    saved: Saved, state: State, config: ModelConfig, rows: list[int]
) -> None:
    """Different ones of each pool, with gaps, and none."""
    opened = open_directory(saved(max_shard_bytes=3000))
    experts = {(1, "V"): rows, (1, "T"): [1]}
    part = load_state(opened, expected=shapes(state), experts=experts)
    for name, tensor in state.items():
        pool = pool_of(name, config)
        assert torch.equal(part[name], tensor if pool is None else tensor[experts[pool]])


def test_a_dense_model_loads_whole_on_every_rank(saved: Saved, config: ModelConfig, state: State) -> None:
    dense = {name: tensor[:1] if is_expert(name, config) else tensor for name, tensor in state.items()}
    path = saved(config=config.dense_twin(), state=dense)
    assert_equal(load_state(path, experts={}), dense)


def test_missing_unexpected_and_misshapen_tensors_are_named(saved: Saved, state: State) -> None:
    path = saved()
    with pytest.raises(CheckpointError, match=r"tensor 'heads\.new\.weight' is missing$"):
        load_state(path, expected={**shapes(state), "heads.new.weight": (1,)})
    fewer = {name: shape for name, shape in shapes(state).items() if not name.startswith("heads.")}
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: tensor 'heads\..*' is unexpected.*and 4 more"
    ):
        load_state(path, expected=fewer)
    with pytest.raises(
        CheckpointError,
        match=r"model\.safetensors: tensor 'embeddings\.words': shape \[120, 8\], but .* \[120, 9\]",
    ):
        load_state(path, expected={**shapes(state), "embeddings.words": (120, 9)})


def test_a_pool_of_the_wrong_size_is_named(saved: Saved, state: State) -> None:
    name = "encoder.blocks.1.ffn.pools.V.w1"
    with pytest.raises(CheckpointError, match=rf"tensor '{name}': shape \[3, 16, 8\] .* the 4 experts"):
        load_state(saved(state={**state, name: state[name][:3]}))


def test_a_file_that_changed_after_opening_is_an_error(saved: Saved) -> None:
    opened = open_directory(saved())
    file = opened.weight_files[0]
    file.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        load_state(opened)


def test_truncated_weights_are_refused(saved: Saved) -> None:
    path = saved()
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor '.*': truncated"):
        load_state(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, dtype=torch.int64), "torch.int64 cannot be stored"),
        (torch.ones(2, dtype=torch.float64), "torch.float64 cannot be stored"),
        (torch.ones(2, device="meta"), "on the meta device"),
    ],
)
def test_tensors_that_cannot_be_stored_are_named(
    saved: Saved, state: State, tmp_path: Path, tensor: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=f"tensor 'odd'.* {message}"):
        saved(state={**state, "odd": tensor})
    assert not list(tmp_path.iterdir())


def test_labels_and_tokenizer_must_fit_before_anything_is_written(
    saved: Saved, labels: dict[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="1 labels for head 'shapes', out_dim is 2"):
        saved(labels={**labels, "shapes": ["round"]})
    with pytest.raises(ValueError, match="0 labels for head 'shapes'"):
        saved(labels={name: names for name, names in labels.items() if name != "shapes"})
    with pytest.raises(ValueError, match="labels for 'matching'; heads with labels: questions"):
        saved(labels={**labels, "matching": ["a"]})
    with pytest.raises(ValueError, match="the config has vocab_size 120"):
        saved(tokenizer=train_wordpiece(["".join(map(chr, range(0x4E00, 0x4E00 + 300)))], 1000))
    assert not list(tmp_path.iterdir())


def test_saving_twice_writes_the_same_bytes(saved: Saved) -> None:
    files = [sorted(p for p in saved(name).rglob("*") if p.is_file()) for name in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


def test_labels_of_any_script_are_kept(saved: Saved, labels: dict[str, list[str]]) -> None:
    path = saved(labels={**labels, "shapes": ["\u5713", "eckig\n"]})
    assert open_directory(path).labels["shapes"] == ("\u5713", "eckig\n")
    assert json.loads((path / "labels" / "shapes.json").read_text(encoding="utf-8")) == ["\u5713", "eckig\n"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bits")


@settings(deadline=None, max_examples=60)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_an_error_or_another_value(
    scratch: Path, position: float, bit: int
) -> None:
    whole = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    file = scratch / "w.safetensors"
    save_file(whole, file)
    damaged = bytearray(file.read_bytes())
    damaged[int(position * len(damaged))] ^= 1 << bit
    file.write_bytes(bytes(damaged))
    try:
        loaded = {entry.name: tensor for entry, tensor in read_tensors(read_header(file).values())}
    except CheckpointError as error:
        message = str(error)
    else:
        message = str(file)
        assert sum(tensor.numel() * tensor.itemsize for tensor in loaded.values()) == 32
    assert message.startswith(str(file))
    assert "\n" not in message
