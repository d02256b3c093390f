"""Many inputs as few calls: each call stays below the server's limits on inputs and bytes.

The inputs are taken and their pictures read chunk by chunk, so a large set is never in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ._answers import many
from ._call import Call, Reply
from ._images import Picture
from ._results import ItemError

R = TypeVar("R")

MAX_INPUTS = 256
# half of the server's default: room for the JSON around, and a failed chunk is cheap to send again
MAX_BYTES = 16 * 2**20


def chunked(
    inputs: Iterable[Mapping[str, Any]], *, max_inputs: int = MAX_INPUTS, max_bytes: int = MAX_BYTES
) -> Iterator[list[dict[str, Any]]]:
    """Cut inputs into lists; one too large for any list makes its own, for the server to judge."""
    chunk: list[dict[str, Any]] = []
    size = 0
    for fields in inputs:
        resolved = {name: _resolve(value) for name, value in fields.items()}
        weight = sum(_weight(value) for value in resolved.values())
        if chunk and (len(chunk) == max_inputs or size + weight > max_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(resolved)
        size += weight
    if chunk:
        yield chunk


def batches(
    path: str,
    inputs: Iterable[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any], Reply], R],
    shared: Mapping[str, Any],
    *,
    rpc: str,
) -> Iterator[Call[list[R | ItemError]]]:
    """The calls that carry `inputs` to a task's route, each with the options they share."""
    for chunk in chunked(inputs):
        yield Call("POST", path, many(read, len(chunk)), {"inputs": chunk, **shared}, rpc=rpc)


def _resolve(value: Any) -> Any:
    return value.load() if isinstance(value, Picture) else value


def _weight(value: Any) -> int:
    # as base64, which is how they travel over HTTP
    return len(value) * 4 // 3 if isinstance(value, bytes) else len(value) if isinstance(value, str) else 0
