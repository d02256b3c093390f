"""Which policy is best on traffic that it has not seen.

    trace -> plan on the first steps -> score on the last ones, and on the images, texts and pairs among them alone

Between the two lies a gap, so that no burst is in both. Every placement is scored with a uniform split over copies and
with the split by counts. `oracle` plans on the very steps it is scored on; `shard` cuts every expert over all ranks;
`eplb_vllm` is vLLM's own balancer, where that is installed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import KINDS, Load, StepLoad, at_ranks
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.policies import POLICIES, Budget
from vlmoe_serve.placement.policies.eplb_vllm import eplb_vllm
from vlmoe_serve.placement.policies.fixed import linear
from vlmoe_serve.placement.step_time import DISPATCHES, Summary, sharded_times, step_times, summary

LATER = "later"
FEWEST_STEPS = 8
EVALUATION_ONLY = ("eplb_vllm", "shard", "oracle")
# shares of the steps that are planned on, and after which scoring begins
_PLAN_SHARE, _SCORE_FROM = 4 / 9, 5 / 9


class TooShort(ValueError):
    """A trace with too few steps to plan on some and score on others; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One policy with one dispatch on one window. moved_mb: to come there from the placement in use."""

    policy: str
    dispatch: str
    ranks: int
    window: str
    seed: int
    told: Summary
    moved_mb: float

    def to_row(self) -> dict[str, object]:
        """Flat, as the JSON file holds it."""
        head = {name: getattr(self, name) for name in ("policy", "dispatch", "ranks", "window", "seed")}
        return {**head, **asdict(self.told), "moved_mb": self.moved_mb}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to evaluate. current: the placement in use; None for the linear one."""

    num_ranks: int
    slots_per_rank: int
    costs: Costs
    policies: Sequence[str]
    seeds: Sequence[int] = (0,)
    threads: int = 1
    current: Placement | None = None


def split(load: Load) -> tuple[Load, Mapping[str, Load]]:
    """What to plan on, and the windows to score on, by name.

    Raises:
        TooShort: fewer than `FEWEST_STEPS` steps.
    """
    num_steps = load.num_steps
    if num_steps < FEWEST_STEPS:
        raise TooShort(f"the trace has {num_steps} steps; to plan and score takes at least {FEWEST_STEPS}")
    later = load.window(round(_SCORE_FROM * num_steps), num_steps)
    windows = {LATER: later}
    modality_Q = later.modality_Q()
    for kind in KINDS:
        mine_Q = modality_Q == kind
        if mine_Q.any() and not mine_Q.all():
            windows[kind] = later.only(mine_Q)
    return load.window(0, round(_PLAN_SHARE * num_steps)), windows


def evaluate(
    load: Load, question: Question, report: Callable[[str], None] = lambda line: None
) -> list[Score]:
    """Every policy, dispatch, window and seed.

    Args:
        load: the whole trace.
        question: what to evaluate.
        report: told what is being planned.

    Raises:
        TooShort: see `split`. BudgetError: too few slots.
    """
    costs = question.costs
    planned_on, windows = split(load)
    plan_load = at_ranks(planned_on, question.num_ranks)
    scored_on = {name: at_ranks(part, question.num_ranks) for name, part in windows.items()}
    budget = Budget(slots_per_rank=question.slots_per_rank, threads=question.threads)
    current = question.current or linear(plan_load, budget, costs)
    scores: list[Score] = []

    def add(
        policy: str, dispatch: str, seed: int, window: str, told: Summary, placement: Placement | None
    ) -> None:
        moved = 0 if placement is None else placement.moved_experts(current)
        scores.append(
            Score(
                policy=policy,
                dispatch=dispatch,
                ranks=question.num_ranks,
                window=window,
                seed=seed,
                told=told,
                moved_mb=moved * costs.expert_bytes / 1e6,
            )
        )

    for seed in question.seeds:
        seeded = replace(budget, seed=seed)
        for policy in question.policies:
            report(f"{policy}, seed {seed}")
            if policy == "shard":
                for name, part in scored_on.items():
                    add(policy, "uniform", seed, name, summary(sharded_times(part, costs), costs), None)
                continue
            oracle = policy == "oracle"
            plan = eplb_vllm if policy == "eplb_vllm" else POLICIES["planner" if oracle else policy]
            placement = plan(scored_on[LATER] if oracle else plan_load, seeded, costs)
            for name, part in scored_on.items():
                if oracle and name != LATER:
                    continue
                for dispatch in DISPATCHES:
                    add(policy, dispatch, seed, name, told_of(part, placement, dispatch, costs), placement)
    return scores


def told_of(load: StepLoad, placement: Placement, dispatch: str, costs: Costs) -> Summary:
    """A placement on steps, in short."""
    return summary(step_times(load, placement, DISPATCHES[dispatch], costs), costs)


def table(scores: Sequence[Score]) -> str:
    """Means over seeds for every window, beside EPLB with its uniform split where that is among them."""
    lines = []
    for window in dict.fromkeys(score.window for score in scores):
        mine = [score for score in scores if score.window == window]
        base = [s.told for s in mine if (s.policy, s.dispatch) == ("eplb", "uniform")]
        lines.append(
            f"{'window ' + window:<14} {'dispatch':<8} {'step ms':>9} {'p99':>9} {'vs EPLB':>8} {'p99':>7} "
            f"{'imbalance':>9} {'p99':>6} {'cross MB':>9} {'moved MB':>9}"
        )
        for policy, dispatch in dict.fromkeys((s.policy, s.dispatch) for s in mine):
            told = [s for s in mine if (s.policy, s.dispatch) == (policy, dispatch)]
            step, p99 = (_mean([getattr(s.told, n) for s in told]) for n in ("step_ms", "step_ms_p99"))
            against = [
                f"{100 * (value / _mean([getattr(b, n) for b in base]) - 1):+.1f}%" if base else ""
                for value, n in ((step, "step_ms"), (p99, "step_ms_p99"))
            ]
            lines.append(
                f"{policy:<14} {dispatch:<8} {step:9.4f} {p99:9.4f} {against[0]:>8} {against[1]:>7} "
                f"{_mean([s.told.imbalance_mean for s in told]):9.3f} "
                f"{_mean([s.told.imbalance_p99 for s in told]):6.2f} "
                f"{_mean([s.told.cross_rank_mb for s in told]):9.2f} {_mean([s.moved_mb for s in told]):9.0f}"
            )
        lines.append("")
    return "\n".join(lines[:-1])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
