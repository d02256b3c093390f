"""`vlmoe bench`: a model on this machine, beside its dense twin and stock torch."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_model.arguments import Parser
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import CheckpointError
from vlmoe_model.precision import DTYPES, choose_dtype
from vlmoe_model.presets import PRESETS
from vlmoe_serve.bench.cases import CASES, batch
from vlmoe_serve.bench.networks import Model
from vlmoe_serve.bench.operations import table
from vlmoe_serve.bench.report import Row, head, line
from vlmoe_serve.bench.run import measure
from vlmoe_serve.bench.weights import checkpoint
from vlmoe_serve.cores import num_cores

_DEMO = "demo"


def run(argv: list[str]) -> int:
    """Exit status: 0 done, 1 a file is bad, 2 bad usage."""
    parser = _arguments()
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    # as the engine does
    keep_freed_memory()
    dtypes = list(dict.fromkeys(choose_dtype(dtype, "cpu") for dtype in args.dtype))
    try:
        models = list(_models(args))
    except CheckpointError as error:
        print(f"vlmoe bench: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        parser.error(str(error))
    print(f"{args.model}, torch {torch.__version__}, {args.threads} threads; milliseconds, median and spread")
    if args.operations:
        for model in models:
            for dtype in dtypes:
                for text in table(model, dtype, args.case, seconds=args.seconds):
                    print(text, flush=True)
        return 0
    rows: list[Row] = []
    for model in models:
        for dtype in dtypes:
            for row in measure(model, dtype, args.case, seconds=args.seconds, more=args.more):
                columns = tuple(row.times)
                if not rows:
                    print(head(columns))
                rows.append(row)
                print(line(row, columns), flush=True)
    print(_rates(rows))
    if args.json is not None:
        args.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> Parser:
    parser = Parser(prog="vlmoe bench", description=__doc__)
    parser.add_argument("model", help=f"checkpoint directory, {_DEMO}, or one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--case", nargs="+", choices=tuple(CASES), default=list(CASES), metavar="NAME", help=", ".join(CASES)
    )
    parser.add_argument("--dtype", nargs="+", choices=("auto", *DTYPES), default=["auto"])
    parser.add_argument("--threads", type=_positive, default=num_cores(), help="default: all cores")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long each case takes")
    parser.add_argument(
        "--experts", nargs="+", type=_positive, help="measure with these numbers of experts, random ones"
    )
    parser.add_argument(
        "--routing",
        choices=("balanced", "own"),
        default="balanced",
        help="give every expert the same share of the tokens, or what the routers choose for random pictures",
    )
    parser.add_argument("--more", action="store_true", help="more ways to write the model in stock torch")
    parser.add_argument(
        "--operations", action="store_true", help="instead: where ours and its dense twin spend their time"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    return parser


def _models(args: argparse.Namespace) -> Iterator[Model]:
    given = None
    # the preset of that name has no weights, and the checkpoint has
    if args.model in PRESETS and args.model != _DEMO:
        config = PRESETS[args.model]
    else:
        config, given = checkpoint(args.model)
    for num_experts in args.experts or [config.num_experts]:
        sized = _resized(config, num_experts)
        for name in args.case:
            batch(name, sized)
        yield Model(sized, given, args.routing == "balanced")


def _resized(config: ModelConfig, num_experts: int) -> ModelConfig:
    return dataclasses.replace(config, num_experts=num_experts)


def _rates(rows: list[Row]) -> str:
    """What the machine reached; the table's rooflines follow from it."""
    by_dtype = {row.dtype: row for row in rows}
    return "; ".join(
        f"{dtype}: {2e-9 * row.multiply_adds_s:.0f} GFLOP/s, {1e-9 * row.bytes_s:.1f} GB/s"
        for dtype, row in by_dtype.items()
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
