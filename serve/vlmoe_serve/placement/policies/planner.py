"""Our planner: search for the placement that makes recorded steps fastest with dispatch by counts.

    EPLB's and risk-aware starts -> local search, layer by layer, guarded against shifted mixes -> Placement

Layers do not depend on each other: tokens return home after each of them.
"""

# S = steps, X = experts, G = ranks

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.dispatch import Hosts
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies.base import Budget
from vlmoe_serve.placement.policies.eplb import eplb
from vlmoe_serve.placement.policies.lpt_risk import lpt_risk
from vlmoe_serve.placement.policies.search import LayerProblem, guard_for, improve

_MAX_CHANGES = 3200
# An attempt costs as experts times ranks: of large models each layer is searched less.
_MAX_WORK = 200_000_000
# Serving only one modality must not become slower than with EPLB's placement and our dispatch, with this to spare.
_GUARD_LIMIT = 0.98


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to search.

    steps, guard_steps: that the search looks at. changes_per_slot: attempts by slots of a layer.
    """

    steps: int
    guard_steps: int
    changes_per_slot: int


# more would be slower and no better
THOROUGH = Effort(steps=128, guard_steps=80, changes_per_slot=40)
# beside serving on the same cores: a sixth of the time, and as good from a placement in use (bench/placement_time.py)
BRIEF = Effort(steps=32, guard_steps=24, changes_per_slot=10)


def planner(load: StepLoad, budget: Budget, costs: Costs) -> Placement:
    """Search from EPLB's placement and the risk-aware one, whichever is the better start."""
    return planner_from(load, budget, costs, starts=())


def planner_from(
    load: StepLoad,
    budget: Budget,
    costs: Costs,
    *,
    starts: Sequence[Placement],
    guarded: bool = True,
    effort: Effort = THOROUGH,
) -> Placement:
    """As `planner`, with further starts, such as the placement in use.

    Args:
        load: steps to plan for.
        budget: slots, seed, threads.
        costs: of the device and its links.
        starts: placements to begin from, beside the two of its own.
        guarded: hold the limits on shifted mixes.
        effort: how long to search.
    """
    base = eplb(load, budget, costs)
    tried = [base, lpt_risk(load, budget, costs), *starts]
    sample = load.steps(spread(load.num_steps, effort.steps))
    shifted = _shifted(load, effort.guard_steps) if guarded else []
    num_changes = min(
        _MAX_CHANGES,
        effort.changes_per_slot * load.num_ranks * budget.slots_per_rank,
        _MAX_WORK // (len(load.layers) * sum(load.pools) * load.num_ranks),
    )
    node_G = costs.nodes(load.num_ranks)

    def one_layer(layer: int) -> Hosts:
        guards = [
            guard_for(counts, base.hosts_LXG[layer], _GUARD_LIMIT, costs, node_G)
            for counts in (part.counts_LSXG[layer] for part in shifted)
            if counts.any()
        ]
        problem = LayerProblem(sample.counts_LSXG[layer], guards, budget.slots_per_rank, costs, node_G)
        hosts = [each.hosts_LXG[layer] for each in tried]
        return improve(problem, hosts, num_changes=num_changes, seed=(budget.seed, layer))

    with ThreadPoolExecutor(max(1, budget.threads)) as pool:
        hosts_LXG = list(pool.map(one_layer, range(len(load.layers))))
    ranks_LG = [[np.flatnonzero(held_X).tolist() for held_X in hosts_XG.T] for hosts_XG in hosts_LXG]
    return place(load.layers, load.pools, ranks_LG, budget.slots_per_rank)


def spread(num_steps: int, most: int) -> npt.NDArray[np.intp]:
    """At most `most` steps, evenly over all of them."""
    return np.unique(np.linspace(0, num_steps - 1, min(num_steps, most)).astype(np.intp))


def _shifted(load: StepLoad, num_steps: int) -> list[StepLoad]:
    """The newer half of the load if only one modality were asked for, in full steps and in thin ones.

    Traffic drifts: limits that hold on all steps alike are the first to break on those to come.
    """
    if not all(load.pools):
        return []
    newer = load.steps(np.arange(load.num_steps // 2, load.num_steps))
    parts = [newer.only_pool(pool) for pool in range(2)]
    full = [part.steps(spread(part.num_steps, num_steps)) for part in parts if part.num_steps]
    return [*full, *map(_thin, full)]


def _thin(load: StepLoad) -> StepLoad:
    """What is left when only one rank has tokens, another in every step: a shifted mix often means small batches."""
    home_S = np.arange(load.num_steps) % load.num_ranks
    is_home_SG = np.arange(load.num_ranks) == home_S[:, None]
    counts = np.where(is_home_SG[None, :, None, :], load.counts_LSXG, 0)
    return StepLoad(load.layers, load.pools, counts, load.home_SG * is_home_SG)
