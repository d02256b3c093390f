"""`vlmoe plan`: compare placements on a recorded trace, write the best one, or tell how many devices it takes."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace

from vlmoe_serve.placement.arguments import parse
from vlmoe_serve.placement.capacity import offers
from vlmoe_serve.placement.costs import Costs, CostsError, read_costs
from vlmoe_serve.placement.decision import decide, turned
from vlmoe_serve.placement.evaluate import EVALUATION_ONLY, LATER, Question, Score, TooShort, evaluate, table
from vlmoe_serve.placement.load import Load, at_ranks, with_mix
from vlmoe_serve.placement.machines import BASE, costs_on
from vlmoe_serve.placement.measured import measure_costs
from vlmoe_serve.placement.placement import Placement, PlacementError, read_placement
from vlmoe_serve.placement.policies import POLICIES, Budget, BudgetError, default_slots
from vlmoe_serve.placement.policies.eplb_vllm import is_installed
from vlmoe_serve.placement.policies.fixed import linear
from vlmoe_serve.placement.trace_format import TraceError, read_meta
from vlmoe_serve.placement.trace_reader import read_trace


def run(argv: list[str]) -> int:
    """Exit status: 0 done, 1 a file is bad or the job failed, 2 bad usage."""
    args = parse(argv)
    try:
        costs = _costs(args)
        print(f"constants: {costs.origin}\n")
        if args.ranks is None and not args.capacity:
            return _measured(args, costs)
        load = read_trace(args.trace)
        if args.capacity:
            return _capacity(args, load, costs)
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


def _costs(args: argparse.Namespace) -> Costs:
    """The constants to plan with: measured now, from a file, as the trace remembers them, or another machine's."""
    meta = None if args.trace is None else read_meta(args.trace)
    sizes = None if meta is None else meta.sizes
    recorded_on = None if meta is None else meta.device
    if args.measure:
        costs = measure_costs(args.device or recorded_on or "auto", sizes or BASE)
        if args.costs is not None:
            args.costs.write_text(costs.to_json(), encoding="utf-8")
        return costs
    if args.costs is not None:
        costs = read_costs(args.costs)
        return replace(
            costs, origin=f"{args.costs}: {costs.origin or 'it does not say where they come from'}"
        )
    if meta is not None and meta.costs is not None and args.device in (None, recorded_on):
        return meta.costs
    hint = "" if args.device or recorded_on else " (the trace does not say on what: --device tells)"
    costs = costs_on(args.device or recorded_on or "cuda", sizes)
    return replace(costs, origin=f"{costs.origin}{hint}; --measure for this machine's own")


def _measured(args: argparse.Namespace, costs: Costs) -> int:
    print(costs.to_json(), end="")
    if args.costs is not None:
        print(f"wrote {args.costs}")
    return 0


def _capacity(args: argparse.Namespace, load: Load, costs: Costs) -> int:
    if args.mix:
        try:
            load = with_mix(load, dict(args.mix))
        except ValueError as error:
            print(f"vlmoe plan: --mix: {error} of {args.trace}", file=sys.stderr)
            return 1
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
