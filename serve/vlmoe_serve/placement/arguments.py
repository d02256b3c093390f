"""The command line of `vlmoe plan`, checked."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from vlmoe_model.arguments import Parser
from vlmoe_serve.placement.evaluate import EVALUATION_ONLY
from vlmoe_serve.placement.load import KINDS
from vlmoe_serve.placement.machines import DEVICES
from vlmoe_serve.placement.policies import POLICIES

# as long as half an hour at 50 ms a step
_HORIZON_STEPS = 36_000


def parse(argv: list[str]) -> argparse.Namespace:
    """What was asked for; ends the process with 2 and one line where it makes no sense."""
    parser = _arguments()
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.capacity:
        if args.rate is None or args.p99_ms is None:
            parser.error("--capacity needs --rate and --p99-ms")
    elif args.mix or args.memory_mb is not None:
        parser.error("--mix and --memory-mb go with --capacity")
    elif args.ranks is None and not args.measure:
        parser.error("the following arguments are required: --ranks")
    if args.trace is None and (args.capacity or args.ranks is not None or not args.measure):
        parser.error("the following arguments are required: --trace")
    if args.policy in EVALUATION_ONLY and not args.evaluate:
        parser.error(f"policy {args.policy} exists for --evaluate only")
    if args.device is not None and args.costs is not None and not args.measure:
        parser.error("--costs has the constants of a device; leave out --device")
    if args.json is not None and not (args.evaluate or args.capacity):
        parser.error("--json goes with --evaluate or --capacity")
    if args.out is not None and (args.evaluate or args.capacity):
        parser.error("--out writes a placement; leave out --evaluate and --capacity")


def _arguments() -> argparse.ArgumentParser:
    parser = Parser(prog="vlmoe plan", description="Place experts on ranks by what routers chose.")
    parser.add_argument("--trace", type=Path, metavar="DIR", help="what --trace-routing wrote")
    parser.add_argument("--ranks", type=_whole(1, 4096), metavar="N", help="ranks that share the experts")
    parser.add_argument(
        "--slots-per-rank",
        type=_whole(1, 65536),
        metavar="K",
        help="experts a rank holds in a layer, both pools together (default: one spare slot a pool)",
    )
    parser.add_argument("--policy", choices=[*POLICIES, *EVALUATION_ONLY], help="only this one")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the best placement there")
    parser.add_argument("--current", type=Path, metavar="FILE", help="the placement in use (default: linear)")
    parser.add_argument(
        "--horizon-steps",
        type=_whole(1, 10**9),
        default=_HORIZON_STEPS,
        metavar="N",
        help=f"how long a new placement is expected to last (default {_HORIZON_STEPS})",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="score every policy on later steps, other mixes too"
    )
    parser.add_argument(
        "--seeds", type=_whole(1, 100), default=3, metavar="N", help="searches to average over (default 3)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of --evaluate or --capacity")
    parser.add_argument("--capacity", action="store_true", help="tell how many devices, and how to use them")
    parser.add_argument("--rate", type=_positive, metavar="R", help="with --capacity: requests a second")
    parser.add_argument("--p99-ms", type=_positive, metavar="L", help="with --capacity: latency to keep")
    parser.add_argument(
        "--mix",
        type=_share,
        nargs="+",
        default=[],
        metavar="KIND=SHARE",
        help="with --capacity: of image, text and pair, such as image=1 text=3 (default: the trace's)",
    )
    parser.add_argument(
        "--memory-mb", type=_positive, metavar="MB", help="with --capacity: weights a device can hold"
    )
    parser.add_argument(
        "--costs",
        type=Path,
        metavar="FILE",
        help="constants that --measure wrote; with --measure: write them there (default: the trace's)",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the constants on this machine first, for experts of the trace's sizes; some seconds",
    )
    parser.add_argument(
        "--device", choices=DEVICES, help="what the ranks run on (default: what the trace was recorded on)"
    )
    parser.add_argument(
        "--threads",
        type=_whole(1, 256),
        default=os.cpu_count() or 1,
        metavar="N",
        help="to plan with (default: all cores)",
    )
    return parser


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _share(text: str) -> tuple[str, float]:
    kind, _, share = text.partition("=")
    if kind not in KINDS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(KINDS)} and its share, got {text!r}")
    return kind, _positive(share)
