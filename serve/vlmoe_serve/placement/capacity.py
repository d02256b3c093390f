"""How many devices a rate and a latency need, and what to do with them: replicas, expert parallelism, or shards.

A unit is one whole-model replica, or a group of devices that share the experts. Requests spread evenly over units. A
unit runs one batch at a time; what arrives meanwhile is the next batch. So a batch settles where it holds what arrives
while it runs, and the slowest requests wait for a whole batch and then ride in one, both somewhat larger than usual:

    b = rate * t(b)      p99 = 2 * t(b + 2.33 * sqrt(b))

t(b) is modelled on the trace's own sequences, regrouped into batches of b, dense layers included. It is an
approximation for planning, not a simulation: `loadtests/` has one.
"""

# Q = sequences

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import Load, at_ranks
from vlmoe_serve.placement.placement import Placement, place
from vlmoe_serve.placement.policies import Budget, default_slots
from vlmoe_serve.placement.policies.lpt_risk import lpt_risk
from vlmoe_serve.placement.step_time import DISPATCHES, StepTimes, sharded_times, step_times

GROUPS = (2, 4, 8)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_STEPS_PER_BATCH = 24
_MAX_UNITS = 4096
# the 99th percentile of a normal distribution, which a Poisson count is close to
_Z99 = 2.33


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One way to serve the rate. kind: replicas, expert parallel, or sharded. batch: sequences of a usual batch."""

    kind: str
    devices: int
    group: int
    batch: float
    p99_ms: float
    memory_mb: float

    def __str__(self) -> str:
        units = self.devices // self.group
        groups = f"{units} group{'s' * (units > 1)}"
        what = {
            "replicas": f"{units} whole-model replica{'s' * (units > 1)}",
            "expert parallel": f"{groups} of {self.group} expert-parallel ranks",
            "sharded": f"{groups} of {self.group} ranks with every expert sharded",
        }[self.kind]
        return (
            f"{what}: {self.devices} device{'s' * (self.devices > 1)}, p99 {self.p99_ms:.1f} ms, "
            f"batches of {self.batch:.0f}, "
            f"{self.memory_mb:.0f} MB of weights a device"
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """How long a batch takes, by its number of sequences."""

    sizes: tuple[int, ...]
    ms: tuple[float, ...]

    def at(self, size: float) -> float:
        """Between the points a line; beyond the last, in proportion."""
        if size > self.sizes[-1]:
            return self.ms[-1] * size / self.sizes[-1]
        return float(np.interp(size, self.sizes, self.ms))


def offers(
    load: Load, costs: Costs, *, rate: float, p99_ms: float, memory_mb: float | None = None
) -> list[Offer]:
    """Every arrangement that meets the latency, fewest devices first.

    Args:
        load: a trace, for its mix of sequences and their routing.
        costs: of the device and its links.
        rate: requests a second.
        p99_ms: latency that 99 of 100 requests must keep, queue and forward pass together.
        memory_mb: weights that a device can hold; None for any.
    """
    found: list[Offer] = []
    num_copies = len(load.layers) * sum(load.pools)
    whole = costs.shared_bytes + num_copies * costs.expert_bytes
    for kind, group in (("replicas", 1), *((k, g) for k in ("expert parallel", "sharded") for g in GROUPS)):
        held = whole
        placement = None
        if kind == "expert parallel":
            slots = default_slots(load.pools, group)
            held = costs.shared_bytes + len(load.layers) * slots * costs.expert_bytes
            seen = at_ranks(load.regrouped(_groups_of(load.num_sequences, 32)), group)
            placement = lpt_risk(seen, Budget(slots_per_rank=slots), costs)
        elif kind == "sharded":
            held = costs.shared_bytes + num_copies * costs.expert_bytes // group
        if memory_mb is not None and held > memory_mb * 1e6:
            continue
        curve = batch_ms(load, costs, group, placement)
        fitting = fewest_units(curve, rate, p99_ms)
        if fitting is not None:
            units, batch, latency = fitting
            found.append(
                Offer(
                    kind=kind,
                    devices=units * group,
                    group=group,
                    batch=batch,
                    p99_ms=latency,
                    memory_mb=held / 1e6,
                )
            )
    return sorted(found, key=lambda offer: (offer.devices, offer.p99_ms))


def fewest_units(curve: Curve, rate: float, p99_ms: float) -> tuple[int, float, float] | None:
    """(units, usual batch, p99 in ms) of the smallest number of units that keeps the latency; None if none does."""
    if 2 * curve.at(1) > p99_ms:
        return None
    low, high = 0, 1
    while (found := settled(curve, rate / high, p99_ms)) is None:
        low, high = high, 2 * high
        if high > _MAX_UNITS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        tried = settled(curve, rate / middle, p99_ms)
        if tried is None:
            low = middle
        else:
            high, found = middle, tried
    return high, *found


def settled(curve: Curve, rate: float, p99_ms: float) -> tuple[float, float] | None:
    """(usual batch, p99 in ms) of a unit at this rate; None where it is too slow."""
    batch = 1.0
    while (arriving := rate * curve.at(batch) / 1000) > batch:
        batch = max(arriving, 1.01 * batch)
        if 2 * curve.at(batch) > p99_ms:
            return None
    mean = rate * curve.at(batch) / 1000
    latency = 2 * curve.at(max(1.0, mean + _Z99 * math.sqrt(mean)))
    return (batch, latency) if latency <= p99_ms else None


def batch_ms(load: Load, costs: Costs, num_ranks: int, placement: Placement | None) -> Curve:
    """How long batches take on so many ranks; without a placement, on one, or with every expert sharded."""
    everything = [list(range(sum(load.pools)))]
    sizes: list[int] = []
    values: list[float] = []
    for size in _BATCHES:
        if sizes and size > load.num_sequences:
            break
        num = min(load.num_sequences, size * _STEPS_PER_BATCH)
        first = (load.num_sequences - num) // 2
        step_Q = _groups_of(num, size)
        keep_Q = np.zeros(load.num_sequences, bool)
        keep_Q[first : first + num] = True
        part = at_ranks(load.regrouped(step_Q, keep_Q), num_ranks)
        times: StepTimes
        if placement is None and num_ranks > 1:
            times = sharded_times(part, costs)
        else:
            where = placement or place(
                load.layers, load.pools, [everything] * len(load.layers), sum(load.pools)
            )
            times = step_times(part, where, DISPATCHES["counts"], costs)
        dense_us = len(load.layers) * (costs.dense_layer_us + costs.dense_token_us * part.home_SG.max(axis=1))
        sizes.append(size)
        values.append(float((times.total_S + dense_us).mean()) / 1000)
    return Curve(tuple(sizes), _ascending(values))


def _groups_of(num: int, size: int) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """[Q]: step of each sequence, `size` to a step; what is left over joins the last."""
    return np.minimum(np.arange(num) // size, max(0, num // size - 1))


def _ascending(values: Sequence[float]) -> tuple[float, ...]:
    """A larger batch never takes less time, whatever sequences happen to be in it."""
    return tuple(float(value) for value in np.maximum.accumulate(values))
