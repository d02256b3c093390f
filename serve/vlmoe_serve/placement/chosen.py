"""The placement that `vlmoe serve --placement` asks for: a file, or a policy that plans at start.

FILE -> read -> fits the model and its ranks?    POLICY -> plan on the trace of --trace-routing -> Placement
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from vlmoe_model.config import ModelConfig
from vlmoe_serve.cores import num_cores
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad, at_ranks
from vlmoe_serve.placement.machines import costs_on
from vlmoe_serve.placement.placement import POOLS, Placement, PlacementError, read_placement
from vlmoe_serve.placement.policies import POLICIES, Budget, default_slots
from vlmoe_serve.placement.trace_format import TraceError, read_meta

_log = logging.getLogger(__name__)
# these look at no load
_FIXED = ("linear", "round_robin")


def choose_placement(
    asked: str,
    config: ModelConfig,
    num_ranks: int,
    trace: Path | None,
    *,
    device: str = "auto",
    num_nodes: int = 1,
) -> Placement:
    """Where the experts of a model are to lie.

    Args:
        asked: name of a policy, or the path of a file.
        config: of the model.
        num_ranks: that share its experts.
        trace: what routers chose before, for policies that look at it.
        device: of the ranks: cpu, cuda, or auto for what the trace was recorded on.
        num_nodes: hosts that the ranks are on.

    Raises:
        PlacementError: one line: a bad file, one for another model or number of ranks, or a policy without a trace.
    """
    if not config.moe_blocks:
        raise PlacementError("the model has no mixtures: there are no experts to place")
    if asked in POLICIES:
        placement = _planned(asked, config, num_ranks, trace, device, num_nodes)
    elif Path(asked).is_file():
        placement = read_placement(Path(asked))
    else:
        raise PlacementError(f"{asked!r} is neither a file nor one of the policies {', '.join(POLICIES)}")
    try:
        check_fits(placement, config, num_ranks)
    except PlacementError as error:
        raise PlacementError(f"{asked}: {error}") from None
    return placement


def even_placement(config: ModelConfig, num_ranks: int) -> Placement:
    """Even shares, and a spare slot for each pool, which re-balancing fills with copies."""
    pools = (config.num_experts, config.num_experts)
    budget = Budget(slots_per_rank=default_slots(pools, num_ranks))
    return POLICIES["linear"](_nothing(config, num_ranks), budget, Costs())


def check_fits(placement: Placement, config: ModelConfig, num_ranks: int) -> None:
    """Whether a placement is for this model and that many ranks.

    Raises:
        PlacementError: it is not; one line.
    """
    if placement.num_ranks != num_ranks:
        raise PlacementError(f"the placement is for {placement.num_ranks} ranks, there are {num_ranks}")
    if placement.layers != tuple(config.moe_blocks):
        raise PlacementError(
            f"the placement is for mixtures in blocks {list(placement.layers)}, "
            f"the model's are {list(config.moe_blocks)}"
        )
    for pool, size in zip(POOLS, placement.pools, strict=True):
        if size != config.num_experts:
            raise PlacementError(
                f"the placement is for {size} experts in pool {pool}, the model has {config.num_experts}"
            )


def _planned(
    policy: str, config: ModelConfig, num_ranks: int, trace: Path | None, device: str, num_nodes: int
) -> Placement:
    pools = (config.num_experts, config.num_experts)
    costs = Costs()
    if policy in _FIXED:
        # without copies no rank needs a spare slot, and with no load none is chosen
        slots, load = default_slots(pools, num_ranks) - len(pools), _nothing(config, num_ranks)
    else:
        slots, load = default_slots(pools, num_ranks), _recorded(policy, num_ranks, trace)
        if (load.layers, load.pools) != (tuple(config.moe_blocks), pools):
            raise PlacementError(f"{trace}: the trace is another model's")
        costs = _costs(policy, trace, device, num_ranks // num_nodes if num_nodes > 1 else None)
    return POLICIES[policy](load, Budget(slots_per_rank=slots, threads=num_cores()), costs)


def _costs(policy: str, trace: Path | None, device: str, ranks_per_node: int | None) -> Costs:
    """Constants of what is served on, for what was recorded: the trace's own where they are of that device."""
    meta = None if trace is None else read_meta(trace)
    recorded_on = "cuda" if meta is None or meta.device is None else meta.device
    serving_on = recorded_on if device == "auto" else device
    if meta is not None and meta.costs is not None and serving_on == recorded_on:
        costs = dataclasses.replace(meta.costs, ranks_per_node=ranks_per_node or meta.costs.ranks_per_node)
    else:
        costs = costs_on(serving_on, None if meta is None else meta.sizes, ranks_per_node)
    _log.info("placement %s is planned with constants of %s", policy, costs.origin)
    return costs


def _nothing(config: ModelConfig, num_ranks: int) -> StepLoad:
    num_layers, num_experts = len(config.moe_blocks), 2 * config.num_experts
    return StepLoad(
        tuple(config.moe_blocks),
        (config.num_experts, config.num_experts),
        np.zeros((num_layers, 1, num_experts, num_ranks), np.int32),
        np.zeros((1, num_ranks), np.int64),
    )


def _recorded(policy: str, num_ranks: int, trace: Path | None) -> StepLoad:
    if trace is None:
        raise PlacementError(
            f"policy {policy} plans on a trace: record one with --trace-routing DIR and start again with both options"
        )
    try:
        # here, not above: pyarrow is needed by those alone who read traces
        from vlmoe_serve.placement.trace_reader import read_trace
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise PlacementError(
            f'policy {policy} needs pyarrow, not installed here: pip install "vlmoe[plan]"'
        ) from None
    try:
        return at_ranks(read_trace(trace), num_ranks)
    except TraceError as error:
        raise PlacementError(f"policy {policy} plans on a trace: {error}") from None
