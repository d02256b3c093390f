"""What a safetensors file declares, checked against the file before a byte of a tensor is read.

A file is: 8 bytes header length (little endian), the header as JSON, the tensors' bytes one after the other.
The safetensors library checks most of this too, but its messages name neither the file nor the tensor.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmoe_model.errors import CheckpointError

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1}
MAX_HEADER_BYTES = 100_000_000
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes [begin, end) of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one file, by name, in the order of their bytes.

    Raises:
        CheckpointError: unreadable, truncated, no safetensors file, or a tensor that does not fit the file.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start[:4] in _PICKLE_STARTS or start[:2] in _PICKLE_STARTS:
                raise CheckpointError(f"{path}: a pickle file under another name; only safetensors is read")
            if len(start) < 8 or length > min(file_bytes - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path}: not a safetensors file, or truncated: a header of {length} bytes "
                    f"in a file of {file_bytes}"
                )
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    entries = [_entry(path, name, fields, 8 + length) for name, fields in _parse(path, raw).items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_coverage(path, entries, 8 + length, file_bytes)
    return {entry.name: entry for entry in entries}


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is a {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} stands there twice")
    return fields


def _entry(path: Path, name: str, fields: Any, data_start: int) -> TensorEntry:
    where = f"{path}: tensor {name!r}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(f"{where}: dtype {dtype!r} is not one of {', '.join(ITEM_BYTES)}")
    if not _are_counts(shape):
        raise CheckpointError(f"{where}: shape {shape!r} is not a list of counts")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets {offsets!r} are not a begin and an end")
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != needed:
        raise CheckpointError(
            f"{where}: {dtype} {shape} takes {needed} bytes, the offsets leave {offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, tuple(shape), path, data_start + offsets[0], data_start + offsets[1])


def _are_counts(values: Any) -> bool:
    # bool is an int in Python, and json reads `true` as one
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_coverage(path: Path, entries: list[TensorEntry], data_start: int, file_bytes: int) -> None:
    position = data_start
    for entry in entries:
        if entry.end > file_bytes:
            raise CheckpointError(
                f"{path}: tensor {entry.name!r}: truncated: it needs {entry.end} bytes of {file_bytes}"
            )
        if entry.begin != position:
            what = "overlaps the tensor before it" if entry.begin < position else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {entry.name!r}: {what} at byte {entry.begin}")
        position = entry.end
    if position != file_bytes:
        raise CheckpointError(f"{path}: {file_bytes - position} bytes after the last tensor belong to none")
