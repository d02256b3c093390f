import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vlmoe_model.checkpoint.header import MAX_HEADER_BYTES, read_header
from vlmoe_model.errors import CheckpointError

TENSORS = {
    "a": torch.ones(2, 3),
    "b": torch.ones(4, dtype=torch.bfloat16),
    "empty": torch.ones(0, 5),
    "s": torch.ones(()),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"format": "pt"})
    return tmp_path / "w.safetensors"


def write(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_entries_say_where_every_tensor_lies(file: Path) -> None:
    entries = read_header(file)
    assert {name: entry.shape for name, entry in entries.items()} == {
        name: tuple(tensor.shape) for name, tensor in TENSORS.items()
    }
    assert (entries["a"].dtype, entries["b"].dtype) == ("F32", "BF16")
    assert (entries["a"].num_elements, entries["empty"].num_elements, entries["s"].num_elements) == (6, 0, 1)
    data = file.read_bytes()
    assert data[entries["a"].begin : entries["a"].end] == struct.pack("<6f", *[1.0] * 6)


def change(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("a", dtype="I64"), "tensor 'a': dtype 'I64' is not one of F32, BF16, F16"),
        (change("a", dtype=["F32"]), "tensor 'a': dtype"),
        (change("a", shape=[2, 4]), "tensor 'a': F32 .* takes 32 bytes, the offsets leave 24"),
        (change("a", shape=[-2, -3]), "tensor 'a': shape"),
        (change("a", shape=[2, 3.0]), "tensor 'a': shape"),
        (change("a", shape=[True, 6]), "tensor 'a': shape"),
        (change("a", shape=6), "tensor 'a': shape 6"),
        (change("a", shape=[2**62, 2**62]), "tensor 'a': F32"),
        (change("a", data_offsets=[24, 0]), "tensor 'a': data_offsets"),
        (change("a", data_offsets=[0]), "tensor 'a': data_offsets"),
        (change("a", data_offsets=[-24, 0]), "tensor 'a': data_offsets"),
        (change("a", extra=1), "tensor 'a': must have exactly dtype, shape and data_offsets"),
        (change("b", data_offsets=[0, 8]), "overlaps the tensor before it"),
        (change("b", data_offsets=[2**40, 2**40 + 8]), "tensor 'b': truncated"),
        (lambda header: header.pop("a"), "leaves a gap before it"),
        (lambda header: header.update(a=None), "tensor 'a': must have exactly"),
        (lambda header: header.update(a=[]), "tensor 'a': must have exactly"),
    ],
)
def test_a_header_that_lies_is_refused(
    file: Path, edit_header: Callable[..., None], damage: Callable[..., None], message: str
) -> None:
    edit_header(file, damage)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(file)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("left", [0, 1, 7, 8, 9, 100, -1])
def test_truncated_files_are_refused(file: Path, left: int) -> None:
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(file)


def test_trailing_bytes_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"xyz")
    with pytest.raises(CheckpointError, match="3 bytes after the last tensor"):
        read_header(file)


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, MAX_HEADER_BYTES + 1])
def test_an_oversized_header_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length))
        # sparse: the file is as long as it claims where that is possible, and takes no room
        file.truncate(min(length + 8, 2**31))
    with pytest.raises(CheckpointError, match=f"a header of {length} bytes"):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[]", "the header is a list"),
        (b"null", "the header is a NoneType"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": {"dtype":"F32","shape":[0],"data_offsets":[0,0]}, "a": {}}', "'a' stands there twice"),
        (b'{"a": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}', "not JSON"),
    ],
)
def test_headers_that_are_no_object_of_tensors_are_refused(
    tmp_path: Path, header: bytes, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(write(tmp_path / "w.safetensors", header))


def test_pickles_under_another_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save(TENSORS, path)
    with pytest.raises(CheckpointError, match="a pickle file under another name; only safetensors"):
        read_header(path)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_header(path)


def test_a_file_without_tensors_is_fine(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / "w.safetensors", b"{}")) == {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "w.safetensors"
    save_file(TENSORS, path)
    return path


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_flipped_header_bits_are_refused_or_harmless(whole: Path, data: st.DataObject) -> None:
    raw = whole.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    bits = data.draw(st.lists(st.integers(0, (8 + length) * 8 - 1), min_size=1, max_size=3, unique=True))
    damaged = bytearray(raw)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    path = whole.with_name("damaged.safetensors")
    path.write_bytes(bytes(damaged))
    try:
        entries = read_header(path)
    except CheckpointError as error:
        message = str(error)
    else:
        # a changed name, or one dtype for another of its width, is a well-formed file
        message = str(path)
        covered = sum(entry.end - entry.begin for entry in entries.values())
        assert covered == len(damaged) - 8 - int.from_bytes(damaged[:8], "little")
    assert message.startswith(str(path))
    assert "\n" not in message


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    header = json.dumps({"a\nb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}).encode()
    with pytest.raises(CheckpointError, match=r"^[^\n]+tensor 'a\\nb'[^\n]+$"):
        read_header(write(tmp_path / "w.safetensors", header, bytes(8)))
