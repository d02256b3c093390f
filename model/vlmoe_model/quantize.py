"""`vlmoe quantize IN OUT --experts int8`: a smaller checkpoint of the same model."""

import dataclasses
import sys
from pathlib import Path

import torch

from vlmoe_kernels.int8 import quantise
from vlmoe_model.arguments import Parser
from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory, resolve
from vlmoe_model.checkpoint.experts import is_int8, scale_of
from vlmoe_model.checkpoint.weights import load_state, save
from vlmoe_model.errors import CheckpointError
from vlmoe_model.network import VLMoE


def quantise_experts(source: CheckpointDir, target: Path) -> None:
    """Write a checkpoint with the matrices of every mixture block in int8; all else stays as it is stored.

    A delta becomes a whole checkpoint.

    Raises:
        CheckpointError: the source is broken, or the target holds something that is no checkpoint of ours.
        ValueError: nothing to quantise, or the target is the source.
    """
    if source.config.expert_weights == "int8":
        raise ValueError(f"{source.path}: its experts are int8 already")
    if not source.config.moe_blocks:
        raise ValueError(f"{source.path}: has no mixture blocks, so there are no experts")
    if target.resolve() == source.path.resolve():
        raise ValueError(f"{target}: a checkpoint is not replaced by its smaller one; name another directory")
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in VLMoE(source.config).state_dict().items()}
    state = load_state(source, expected=expected)
    config = dataclasses.replace(source.config, expert_weights="int8")
    for name in [name for name in state if is_int8(name, config)]:
        state[name], state[scale_of(name)] = quantise(state[name])
    save(
        target,
        config,
        state,
        source.tokenizer(),
        source.labels,
        card=source.card,
        metrics=source.metrics or None,
    )


def run(argv: list[str]) -> int:
    """The command; returns its exit code."""
    parser = Parser(prog="vlmoe quantize", description="Write a smaller checkpoint.")
    parser.add_argument("source", metavar="IN", help="a checkpoint directory, or demo")
    parser.add_argument("target", metavar="OUT", type=Path, help="the directory to write")
    parser.add_argument("--experts", required=True, choices=("int8",), help="what the experts are stored as")
    args = parser.parse_args(argv)
    try:
        source = open_directory(resolve(args.source))
        quantise_experts(source, args.target)
        before, after = (_num_bytes(directory) for directory in (source, open_directory(args.target)))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"vlmoe quantize: {error}", file=sys.stderr)
        return 1
    print(f"{args.target}: {1e-6 * after:.1f} MB of weights instead of {1e-6 * before:.1f}")
    return 0


def _num_bytes(directory: CheckpointDir) -> int:
    return sum(entry.end - entry.begin for entry in directory.tensors.values())
