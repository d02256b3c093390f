"""What a checkpoint directory holds, checked as a whole before anything is built from it.

config.json  tokenizer.json  labels/HEAD.json  card.md  metrics.json
model.safetensors, or model-0000i-of-0000n.safetensors with model.safetensors.index.json
base.json    only in a delta: {"model_id", "path"?, "removed"?}; the tensors it lacks come from that base
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmoe_model.checkpoint.files import (
    BASE,
    CARD,
    CONFIG,
    INDEX,
    LABELS,
    METRICS,
    SHARD,
    TOKENIZER,
    WEIGHTS,
    read_json,
    read_object,
    read_text,
)
from vlmoe_model.checkpoint.fingerprint import model_id
from vlmoe_model.checkpoint.header import TensorEntry, read_header
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.processor import Processor
from vlmoe_model.tokenizer import Tokenizer

DEMO = "demo"
LABELLED_TASKS = ("vqa", "image_classification", "text_classification")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_MAX_CONFIG_BYTES = 2**20
# A delta of a delta is fine; a ring of them must end.
_MAX_BASES = 8


@dataclass(frozen=True, slots=True)
class Base:
    """The checkpoint that a delta's remaining tensors come from."""

    model_id: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDir:
    """An opened checkpoint. Everything but the tensors' values has been read and checked.

    labels: by head, for the heads that have labels.
    weight_files: the directory's own; a delta's further tensors lie in its base's.
    tensors: every tensor of the model by name, a base's included.
    """

    path: Path
    config: ModelConfig
    labels: dict[str, tuple[str, ...]]
    weight_files: tuple[Path, ...]
    tensors: dict[str, TensorEntry]
    card: str
    metrics: dict[str, Any]
    base: Base | None
    _tokenizer: Tokenizer = field(repr=False, compare=False)

    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self._tokenizer

    def processor(self) -> Processor:
        """What prepares inputs for the checkpoint's heads."""
        return Processor(self.config, self._tokenizer)


def resolve(name_or_path: str | Path) -> Path:
    """The directory that a user means: a path, or `demo` for the checkpoint that ships with the package."""
    if str(name_or_path) != DEMO:
        return Path(name_or_path)
    path = Path(__file__).resolve().parent.parent / DEMO
    if not (path / CONFIG).is_file():
        raise CheckpointError(
            f"{path}: this installation has no demo checkpoint; name a checkpoint directory"
        )
    return path


def open_directory(path: str | Path, *, bases: Sequence[str | Path] = ()) -> CheckpointDir:
    """Open and check a checkpoint; `demo` is accepted.

    Args:
        path: the directory.
        bases: where to look for a delta's base, besides the hint in its base.json.

    Raises:
        CheckpointError: one line that names the file and, where there is one, the tensor.
    """
    try:
        return _open(resolve(path), bases, depth=0)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # such as a path with a zero byte, or one that is too long
        raise CheckpointError(f"{path!s:.200}: cannot be opened: {error!s:.200}") from error


def _open(path: Path, bases: Sequence[str | Path], depth: int) -> CheckpointDir:
    _check_is_directory(path)
    config = ModelConfig.from_json(read_text(path / CONFIG, _MAX_CONFIG_BYTES), str(path / CONFIG))
    tokenizer = Tokenizer.load(path / TOKENIZER)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path / TOKENIZER}: {tokenizer.vocab_size} tokens, "
            f"but {CONFIG} has vocab_size {config.vocab_size}"
        )
    labels = _read_labels(path, config)
    files, tensors = _read_weights(path)
    base = None
    if (path / BASE).exists():
        base, inherited = _read_base(path, bases, depth)
        tensors = {**inherited, **tensors}
    return CheckpointDir(
        path=path,
        config=config,
        labels=labels,
        weight_files=files,
        tensors=dict(sorted(tensors.items())),
        card=read_text(path / CARD) if (path / CARD).exists() else "",
        metrics=read_object(path / METRICS) if (path / METRICS).exists() else {},
        base=base,
        _tokenizer=tokenizer,
    )


def _check_is_directory(path: Path) -> None:
    if path.is_dir():
        found = [entry.name for entry in path.iterdir() if entry.suffix in _PICKLES]
        if found and not any((path / name).exists() for name in (WEIGHTS, INDEX, BASE)):
            raise CheckpointError(_pickle_refused(path / sorted(found)[0]))
    elif path.suffix in _PICKLES:
        raise CheckpointError(_pickle_refused(path))
    else:
        raise CheckpointError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}")


def _pickle_refused(path: Path) -> str:
    return (
        f"{path}: pickle files can run code and are never opened; rewrite it where you trust it: "
        f'safetensors.torch.save_file(torch.load("{path.name}", weights_only=True), "{WEIGHTS}")'
    )


def _read_labels(path: Path, config: ModelConfig) -> dict[str, tuple[str, ...]]:
    labels = {}
    for head in config.heads:
        if head.task not in LABELLED_TASKS:
            continue
        file = path / LABELS / f"{head.name}.json"
        names = read_json(file)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{file}: must be a JSON list of strings")
        if len(names) != head.out_dim:
            raise CheckpointError(
                f"{file}: {len(names)} labels, but head {head.name!r} has out_dim {head.out_dim}"
            )
        labels[head.name] = tuple(names)
    return labels


def _read_weights(path: Path) -> tuple[tuple[Path, ...], dict[str, TensorEntry]]:
    whole, index = path / WEIGHTS, path / INDEX
    if not index.exists():
        if not whole.exists():
            raise CheckpointError(f"{path}: neither {WEIGHTS} nor {INDEX}")
        return (whole,), read_header(whole)
    if whole.exists():
        raise CheckpointError(f"{path}: both {WEIGHTS} and {INDEX}; only one may be there")
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map must be an object of tensor names and files")
    for name, file in weight_map.items():
        # a plain name of this form cannot lead out of the directory
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise CheckpointError(f"{index}: tensor {name!r}: {file!r} is not a shard's name")
    tensors: dict[str, TensorEntry] = {}
    files = tuple(path / name for name in sorted(set(weight_map.values())))
    for file in files:
        for name, entry in read_header(file).items():
            if weight_map.get(name) != file.name:
                raise CheckpointError(f"{file}: tensor {name!r} is not in this file according to {INDEX}")
            tensors[name] = entry
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{path / shard}: tensor {name!r} is missing, though {INDEX} names it")
    return files, tensors


def _read_base(path: Path, bases: Sequence[str | Path], depth: int) -> tuple[Base, dict[str, TensorEntry]]:
    file = path / BASE
    fields = read_object(file)
    wanted, hint, removed = fields.get("model_id"), fields.get("path"), fields.get("removed", [])
    is_list = isinstance(removed, list) and all(isinstance(name, str) for name in removed)
    if not isinstance(wanted, str) or not isinstance(hint, str | None) or not is_list:
        raise CheckpointError(f"{file}: must hold model_id, and may hold path and a list of removed tensors")
    if depth >= _MAX_BASES:
        raise CheckpointError(f"{file}: more than {_MAX_BASES} deltas on top of each other")
    candidates = [resolve(base) for base in bases]
    if hint is not None:
        candidates.insert(0, _beside(path, hint))
    gone = set(removed)
    found = []
    for candidate in candidates:
        if not (candidate / CONFIG).is_file():
            continue
        base = _open(candidate, bases, depth + 1)
        base_id = model_id(base)
        if base_id == wanted:
            kept = {name: entry for name, entry in base.tensors.items() if name not in gone}
            return Base(base_id, candidate), kept
        found.append(f"{candidate} is {base_id}")
    where = "; ".join(found) or f"no checkpoint at {', '.join(map(str, candidates)) or 'any given place'}"
    raise CheckpointError(f"{file}: needs the base {wanted}, but {where}")


def _beside(path: Path, hint: str) -> Path:
    """Where a hint points; it may name a neighbour of the delta, nothing further away."""
    parent = path.resolve().parent
    target = (parent / path.resolve().name / hint).resolve()
    if Path(hint).is_absolute() or not target.is_relative_to(parent) or target == parent:
        raise CheckpointError(f"{path / BASE}: the path {hint!r} leads out of {parent}")
    return target
