"""Modelled time of the MoE layers: what every placement is judged by.

    StepLoad, Placement, dispatch, Costs --step_times--> StepTimes --summary--> Summary

A layer takes as long as its slowest rank computes (tokens, and weights read of each expert that has any), and as its
busiest link needs for both all-to-alls: the maximum over ranks of what goes in and what goes out. Attention and dense
layers do not depend on the placement and are left out.
"""

# L = MoE layers, S = steps, X = experts, G = ranks

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.dispatch import Counts, Dispatch, Hosts, Routed, uniform
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.native import split_by_counts
from vlmoe_serve.placement.placement import Placement

DISPATCHES: dict[str, Dispatch] = {"uniform": uniform, "counts": split_by_counts}

Microseconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """By layer and step.

    busy_LSG: compute of each rank, us. link_LS: both all-to-alls, us. crossing_LS: tokens that change ranks, one way.
    """

    busy_LSG: Microseconds
    link_LS: Microseconds
    crossing_LS: npt.NDArray[np.int64]

    @property
    def total_S(self) -> Microseconds:
        """Time of all MoE layers of a step, us."""
        total: Microseconds = (self.busy_LSG.max(axis=2) + self.link_LS).sum(axis=0)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One placement on one stretch of a trace.

    step_ms, step_ms_p99: modelled MoE time of a step. compute_ms, link_ms: its parts, means.
    imbalance_mean, imbalance_p99: busiest rank over mean rank, by layer and step. imbalance_sums: sum of the busiest
    over sum of the means (1 / vLLM's balancedness). balancedness: mean of mean over busiest (SGLang's).
    cross_rank_mb: bytes between ranks a step, both ways.
    """

    step_ms: float
    step_ms_p99: float
    compute_ms: float
    link_ms: float
    imbalance_mean: float
    imbalance_p99: float
    imbalance_sums: float
    balancedness: float
    cross_rank_mb: float


def step_times(load: StepLoad, placement: Placement, dispatch: Dispatch, costs: Costs) -> StepTimes:
    """Run the trace through a placement."""
    node_G = costs.nodes(load.num_ranks)
    hosts_LXG = placement.hosts_LXG
    layers = [
        layer_times(counts, hosts, dispatch, costs, node_G)
        for counts, hosts in zip(load.counts_LSXG, hosts_LXG, strict=True)
    ]
    return StepTimes(
        np.stack([busy for busy, _, _ in layers]),
        np.stack([link for _, link, _ in layers]),
        np.stack([crossing for _, _, crossing in layers]),
    )


def layer_times(
    counts_SXG: Counts, hosts_XG: Hosts, dispatch: Dispatch, costs: Costs, node_G: npt.NDArray[np.int32]
) -> tuple[Microseconds, Microseconds, npt.NDArray[np.int64]]:
    """One layer's share of `StepTimes`."""
    routed = dispatch(counts_SXG, hosts_XG, stream=costs.stream_tokens, node_G=node_G)
    return busy_us(routed, costs), link_us(routed, costs), routed.traffic_BGG.sum(axis=(1, 2))


def busy_us(routed: Routed, costs: Costs) -> Microseconds:
    """[steps, ranks]: compute of each rank."""
    tokens_SG = routed.amounts_BXG.sum(axis=1, dtype=np.int64)
    active_SG = (routed.amounts_BXG > 0).sum(axis=1)
    busy: Microseconds = costs.token_us * tokens_SG + costs.expert_us * active_SG
    return busy


def link_us(routed: Routed, costs: Costs) -> Microseconds:
    """[steps]: dispatch and combine; the way back is the way there reversed."""
    if routed.traffic_BGG.shape[1] == 1:
        return np.zeros(len(routed.traffic_BGG))
    both_ways: Microseconds = 2.0 * (wire_us(routed, costs).max(axis=1) + costs.start_us)
    return both_ways


def wire_us(routed: Routed, costs: Costs) -> Microseconds:
    """[steps, ranks]: what goes in or what goes out of each rank one way, whichever takes longer."""
    cost_SGG = routed.traffic_BGG * costs.link_us(routed.traffic_BGG.shape[1])
    longer: Microseconds = np.maximum(cost_SGG.sum(axis=1), cost_SGG.sum(axis=2))
    return longer


def least_us(load: StepLoad, costs: Costs) -> Microseconds:
    """[steps]: what no placement takes less than: all ranks compute alike, every expert in use is read once."""
    per_expert_LSX = load.per_expert_LSX
    read_LS = (per_expert_LSX > 0).sum(axis=2)
    even_LS = (costs.token_us * per_expert_LSX.sum(axis=2) + costs.expert_us * read_LS) / load.num_ranks
    starts_us = 2.0 * costs.start_us if load.num_ranks > 1 else 0.0
    least: Microseconds = (even_LS + starts_us).sum(axis=0)
    return least


def sharded_times(load: StepLoad, costs: Costs) -> StepTimes:
    """Every expert cut over all ranks: no imbalance, but every rank sees every token (MoEShard, Balmau et al. 2025)."""
    num_ranks = load.num_ranks
    per_expert_LSX = load.per_expert_LSX
    even_LS = (
        costs.token_us * per_expert_LSX.sum(axis=2) + costs.expert_us * (per_expert_LSX > 0).sum(axis=2)
    ) / num_ranks
    home_LSG = load.counts_LSXG.sum(axis=2, dtype=np.int64)
    cost_GG = costs.link_us(num_ranks)
    incoming_LSG = home_LSG @ cost_GG
    outgoing_LSG = home_LSG * cost_GG.sum(axis=1)
    busiest_LS = np.maximum(incoming_LSG, outgoing_LSG).max(axis=2)
    link_LS = 2.0 * (busiest_LS + costs.start_us) if num_ranks > 1 else np.zeros(even_LS.shape)
    return StepTimes(
        np.repeat(even_LS[:, :, None], num_ranks, axis=2), link_LS, home_LSG.sum(axis=2) * (num_ranks - 1)
    )


def summary(times: StepTimes, costs: Costs) -> Summary:
    """Means and tails over steps."""
    total_S = times.total_S
    most_LS, mean_LS = times.busy_LSG.max(axis=2), times.busy_LSG.mean(axis=2)
    # a layer may stand idle in a step: text-only traffic leaves an image pool without work
    work = mean_LS > 0
    ratio = most_LS[work] / mean_LS[work] if work.any() else np.ones(1)
    return Summary(
        step_ms=float(total_S.mean()) / 1000,
        step_ms_p99=float(np.percentile(total_S, 99)) / 1000,
        compute_ms=float(most_LS.sum(axis=0).mean()) / 1000,
        link_ms=float(times.link_LS.sum(axis=0).mean()) / 1000,
        imbalance_mean=float(ratio.mean()),
        imbalance_p99=float(np.percentile(ratio, 99)),
        imbalance_sums=float(most_LS.sum() / mean_LS.sum()) if work.any() else 1.0,
        balancedness=float((1 / ratio).mean()),
        cross_rank_mb=2e-6 * costs.token_bytes * float(times.crossing_LS.sum(axis=0).mean()),
    )
