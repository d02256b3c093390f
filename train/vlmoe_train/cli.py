"""`vlmoe train`, and the way to `vlmoe eval` and `vlmoe data`."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from vlmoe_model.arguments import Parser

COMMANDS: Mapping[str, str] = {
    "train": "vlmoe_train.cli:train",
    "eval": "vlmoe_train.evaluate.cli:run",
    "data": "vlmoe_train.cli_data:run",
}


def run(argv: list[str]) -> int:
    """Run one of COMMANDS; argv[0] is its name."""
    module, _, name = COMMANDS[argv[0]].partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), name)
    return command(argv[1:])


def train(argv: list[str]) -> int:
    """Exit status: 0 done, 1 the run failed, 2 bad usage."""
    parser = Parser(prog="vlmoe train", description="Train a checkpoint that `vlmoe serve` loads.")
    parser.add_argument("--recipe", required=True, help="name of a recipe, or a .yaml file")
    parser.add_argument(
        "--out", required=True, type=Path, help="directory for the checkpoint, metrics.jsonl and state"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where `vlmoe data fetch` put the data"
    )
    parser.add_argument("--resume", action="store_true", help="go on where --out stopped")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--backend", help="kernels that train: auto (default), cpu_native, eager")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    args = parser.parse_args(argv)

    from vlmoe_train.config import RecipeError, load_recipe

    overrides = {
        name: getattr(args, name) for name in ("steps", "seed", "backend") if getattr(args, name) is not None
    }
    try:
        config = load_recipe(args.recipe, overrides)
    except RecipeError as error:
        print(f"vlmoe train: {error}", file=sys.stderr)
        return 2
    if (args.out / "metrics.jsonl").exists() and not args.resume:
        print(f"vlmoe train: {args.out} holds a run; --resume goes on with it", file=sys.stderr)
        return 2

    import torch

    from vlmoe_train import trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        trainer.train(
            config, args.data, args.out, resume=args.resume, report=lambda line: print(line, flush=True)
        )
    except (ValueError, OSError) as error:
        print(f"vlmoe train: {error}", file=sys.stderr)
        return 1
    return 0
