"""`vlmoe inspect PATH`: what a checkpoint holds."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vlmoe_model.arguments import Parser
from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory
from vlmoe_model.checkpoint.experts import is_expert
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.checkpoint.header import ITEM_BYTES
from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What `vlmoe inspect` shows.

    num_active: as `num_parameters`, but of every expert pool only the `top_k` experts that a token takes.
    """

    path: str
    model_id: str
    space_id: str | None
    base_model_id: str | None
    num_parameters: int
    num_active: int
    num_bytes: int
    dtypes: tuple[str, ...]
    metrics: dict[str, float]


def summarise(directory: CheckpointDir) -> Summary:
    """Count parameters and compute the ids; reads all weights."""
    config, tensors = directory.config, directory.tensors.values()
    idle = sum(
        entry.num_elements // config.num_experts * (config.num_experts - config.top_k)
        for entry in tensors
        if is_expert(entry.name, config)
    )
    total = sum(entry.num_elements for entry in tensors)
    return Summary(
        path=str(directory.path),
        model_id=model_id(directory),
        space_id=space_id(directory),
        base_model_id=directory.base.model_id if directory.base else None,
        num_parameters=total,
        num_active=total - idle,
        num_bytes=sum(entry.num_elements * ITEM_BYTES[entry.dtype] for entry in tensors),
        dtypes=tuple(sorted({entry.dtype for entry in tensors})),
        metrics=dict(_numbers("", directory.metrics)),
    )


def run(argv: list[str]) -> int:
    """The command; returns its exit code."""
    parser = Parser(prog="vlmoe inspect", description="Show what a checkpoint holds.")
    parser.add_argument("path", help="checkpoint directory, or demo")
    parser.add_argument(
        "--base", action="append", default=[], metavar="DIR", help="where a delta's base may be"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        directory = open_directory(options.path, bases=options.base)
        summary = summarise(directory)
    except CheckpointError as error:
        print(f"vlmoe inspect: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({**asdict(summary), "config": asdict(directory.config)}, indent=2))
    else:
        print("\n".join(_lines(directory, summary)))
    return 0


def _lines(directory: CheckpointDir, summary: Summary) -> Iterator[str]:
    config = directory.config
    rows = {
        "path": summary.path,
        "model_id": summary.model_id,
        "space_id": summary.space_id or "none (no contrastive head)",
        "base": summary.base_model_id or "none (a whole checkpoint)",
        "network": _network(config),
        "experts": _experts(config),
        "parameters": f"{_short(summary.num_parameters)} total, {_short(summary.num_active)} active a token",
        "stored": f"{summary.num_bytes / 1e6:.1f} MB as {', '.join(summary.dtypes)}",
    }
    yield from (f"{name:<12}{value}" for name, value in rows.items())
    yield "heads"
    yield from (f"  {_head(head, directory)}" for head in config.heads)
    if summary.metrics:
        yield "metrics"
        width = max(map(len, summary.metrics))
        yield from (f"  {name:<{width}}  {value:g}" for name, value in summary.metrics.items())


def _network(config: ModelConfig) -> str:
    fusion = "" if config.vl_start is None else f", image-text layers from block {config.vl_start}"
    return (
        f"{config.num_layers} blocks, width {config.dim}, {config.num_heads} heads, "
        f"feed-forward {config.ffn_dim}{fusion}; {config.stem} stem, "
        f"{config.image_size} px in patches of {config.patch_size}; "
        f"{config.max_text} tokens of {config.vocab_size}"
    )


def _experts(config: ModelConfig) -> str:
    if not config.moe_blocks:
        return "none (dense)"
    blocks = ", ".join(map(str, config.moe_blocks))
    return f"{config.num_experts} a modality in blocks {blocks}; {config.router}, {config.top_k} per token"


def _head(head: HeadConfig, directory: CheckpointDir) -> str:
    labels = directory.labels.get(head.name)
    parts = [f"{len(labels)} labels" if labels is not None else f"{head.out_dim} dimensions"]
    if head.image is not None:
        crop = "" if head.image.crop == "none" else f", {head.image.crop} crop"
        parts.append(f"image {head.image.size} px {head.image.resize}{crop}")
    if head.max_text:
        parts.append(f"text to {head.max_text} tokens")
    return f"{head.name} ({head.task}): {'; '.join(parts)}"


def _short(count: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _numbers(prefix: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number of a nested object, under its dotted name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, value
