"""Names of a checkpoint's files, and reading the small ones with errors that name the file."""

import json
import re
from pathlib import Path
from typing import Any

from vlmoe_model.errors import CheckpointError

CONFIG, TOKENIZER, LABELS, CARD, METRICS = (
    "config.json",
    "tokenizer.json",
    "labels",
    "card.md",
    "metrics.json",
)
WEIGHTS, INDEX, BASE = "model.safetensors", "model.safetensors.index.json", "base.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
MAX_TEXT_BYTES = 16 * 2**20


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A text file, unless it is larger than anything we would have written."""
    try:
        if path.stat().st_size > max_bytes:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes; at most {max_bytes} are allowed")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_text(path))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be a JSON object, got a {type(value).__name__}")
    return value
