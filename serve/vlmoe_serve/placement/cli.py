"""`vlmoe plan`: compare placements on a recorded trace, write the best one, or tell how many devices it takes."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from vlmoe_serve.placement.costs import DEVICES, Costs, CostsError, costs_on, read_costs
from vlmoe_serve.placement.decision import decide, turned
from vlmoe_serve.placement.evaluate import EVALUATION_ONLY, LATER, Question, Score, TooShort, evaluate, table
from vlmoe_serve.placement.load import Load, at_ranks
from vlmoe_serve.placement.placement import Placement, PlacementError, read_placement
from vlmoe_serve.placement.policies import POLICIES, Budget, BudgetError, default_slots
from vlmoe_serve.placement.policies.eplb_vllm import is_installed
from vlmoe_serve.placement.policies.fixed import linear
from vlmoe_serve.placement.size import offers
from vlmoe_serve.placement.trace_format import TraceError, read_meta
from vlmoe_serve.placement.trace_reader import read_trace

# as long as half an hour at 50 ms a step
_HORIZON_STEPS = 36_000


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def run(argv: list[str]) -> int:
    """Exit status: 0 done, 1 a file is bad or the job failed, 2 bad usage."""
    parser = _arguments()
    args = parser.parse_args(argv)
    _check(parser, args)
    try:
        load = read_trace(args.trace)
        costs, origin = _costs(args)
        print(f"constants: {origin}\n")
        if args.size:
            return _size(args, load, costs)
        current = None if args.current is None else read_placement(args.current)
        job = _Job(args, load, costs, current)
        return job.evaluate() if args.evaluate else job.plan()
    except BudgetError as error:
        print(f"vlmoe plan: {error}", file=sys.stderr)
        return 2
    except (TraceError, CostsError, PlacementError, TooShort, OSError) as error:
        print(f"vlmoe plan: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


@dataclass(frozen=True, slots=True)
class _Job:
    args: argparse.Namespace
    load: Load
    costs: Costs
    current: Placement | None

    def evaluate(self) -> int:
        """Score every policy on the later part of the trace."""
        everyone = [name for name in (*POLICIES, *EVALUATION_ONLY) if name != "eplb_vllm" or is_installed()]
        policies = [self.args.policy] if self.args.policy else everyone
        scores = evaluate(self.load, self._question(policies, range(self.args.seeds)), self._report)
        print(table(scores))
        if self.args.json is not None:
            rows = [score.to_row() for score in scores]
            self.args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return 0

    def plan(self) -> int:
        """Find the policy that is best on the later part, and let it plan on all of the trace."""
        policies = [self.args.policy] if self.args.policy else [*POLICIES]
        scores = evaluate(self.load, self._question(policies, (0,)), self._report)
        print(table([score for score in scores if score.window == LATER]))
        best = min((s for s in scores if s.window == LATER and s.dispatch == "counts"), key=_step_ms).policy
        self._report(f"{best}, on the whole trace")
        whole = at_ranks(self.load, self.args.ranks)
        budget = Budget(slots_per_rank=self._slots, threads=self.args.threads)
        current = self.current or linear(whole, budget, self.costs)
        proposed = turned(POLICIES[best](whole, budget, self.costs), current, self.costs)
        decision = decide(whole, current, proposed, self.costs, self.args.horizon_steps)
        against = "the linear placement" if self.current is None else str(self.args.current)
        print(f"\n{best} against {against}: {decision}")
        if self.args.out is not None:
            stays = self.current is not None and not decision.move
            written = current if stays else proposed
            self.args.out.write_text(written.to_json(policy="unchanged" if stays else best), encoding="utf-8")
            print(f"wrote {self.args.out}")
        return 0

    @property
    def _slots(self) -> int:
        return self.args.slots_per_rank or default_slots(self.load.pools, self.args.ranks)

    def _question(self, policies: list[str], seeds: "range | tuple[int, ...]") -> Question:
        return Question(
            num_ranks=self.args.ranks,
            slots_per_rank=self._slots,
            costs=self.costs,
            policies=policies,
            seeds=tuple(seeds),
            threads=self.args.threads,
            current=self.current,
        )

    def _report(self, line: str) -> None:
        if sys.stderr.isatty():
            print(f"planning: {line}", file=sys.stderr)


def _costs(args: argparse.Namespace) -> tuple[Costs, str]:
    """The constants to plan with, and where they come from."""
    if args.costs is not None:
        return read_costs(args.costs), str(args.costs)
    meta = read_meta(args.trace)
    device = args.device or (None if meta is None else meta.device)
    costs, origin = costs_on(device or "cuda", None if meta is None else meta.sizes)
    hint = "" if device else " (the trace does not say on what it was recorded: --device tells)"
    return costs, f"{origin}{hint}; --costs has your own"


def _size(args: argparse.Namespace, load: Load, costs: Costs) -> int:
    found = offers(load, costs, rate=args.rate, p99_ms=args.p99_ms, memory_mb=args.memory_mb)
    if args.json is not None:
        args.json.write_text(
            json.dumps([asdict(offer) for offer in found], indent=1) + "\n", encoding="utf-8"
        )
    if not found:
        print(f"vlmoe plan: no arrangement keeps {args.p99_ms:g} ms at p99", file=sys.stderr)
        return 1
    print(f"{args.rate:g} requests a second within {args.p99_ms:g} ms at p99, the cheapest first:")
    for offer in found:
        print(f"  {offer}")
    return 0


def _step_ms(score: Score) -> float:
    return score.told.step_ms


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.size:
        if args.rate is None or args.p99_ms is None:
            parser.error("--size needs --rate and --p99-ms")
    elif args.ranks is None:
        parser.error("the following arguments are required: --ranks")
    if args.policy in EVALUATION_ONLY and not args.evaluate:
        parser.error(f"policy {args.policy} exists for --evaluate only")
    if args.device is not None and args.costs is not None:
        parser.error("--costs has the constants of a device; leave out --device")
    if args.json is not None and not (args.evaluate or args.size):
        parser.error("--json goes with --evaluate or --size")
    if args.out is not None and (args.evaluate or args.size):
        parser.error("--out writes a placement; leave out --evaluate and --size")


def _arguments() -> argparse.ArgumentParser:
    parser = _Parser(prog="vlmoe plan", description="Place experts on ranks by what routers chose.")
    parser.add_argument("--trace", required=True, type=Path, metavar="DIR", help="what --trace-routing wrote")
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of --evaluate or --size")
    parser.add_argument("--size", action="store_true", help="tell how many devices, and how to use them")
    parser.add_argument("--rate", type=_positive, metavar="R", help="with --size: requests a second")
    parser.add_argument("--p99-ms", type=_positive, metavar="L", help="with --size: latency to keep")
    parser.add_argument(
        "--memory-mb", type=_positive, metavar="MB", help="with --size: weights a device can hold"
    )
    parser.add_argument(
        "--costs",
        type=Path,
        metavar="FILE",
        help="constants of your device, measured (default: estimates for --device and the trace's model)",
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
