"""Whether to go from the placement in use to another: often the answer is no.

Ranks of a node do the same, so the new placement is first turned until as few experts as possible have to travel. What
is left must gain more than noise, and pay back before it is out of date.
"""

# G = ranks, X = experts

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.load import StepLoad
from vlmoe_serve.placement.placement import Placement
from vlmoe_serve.placement.step_time import DISPATCHES, least_us, step_times

# below this, a gain on one trace is as likely a loss on the next
MIN_GAIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a move gains and costs.

    gain: share of the modelled MoE time. break_even_steps: until the move has paid back; None where it never does.
    """

    move: bool
    gain: float
    moved_mb: float
    move_ms: float
    break_even_steps: float | None
    horizon_steps: int

    def __str__(self) -> str:
        """One line for the user."""
        cost = f"moves {self.moved_mb:.0f} MB in {self.move_ms:.1f} ms"
        gain = f"{100 * abs(self.gain):.1f} % {'faster' if self.gain >= 0 else 'slower'} on the trace"
        if self.break_even_steps is None or self.gain < MIN_GAIN:
            return f"do not move: {gain}, less than the {100 * MIN_GAIN:.0f} % that are asked for ({cost})"
        pays = f"pays back after {self.break_even_steps:.0f} steps, of {self.horizon_steps} planned for"
        return f"{'move' if self.move else 'do not move'}: {gain}, {cost}, {pays}"


def decide(
    load: StepLoad, current: Placement, proposed: Placement, costs: Costs, horizon_steps: int
) -> Decision:
    """Compare both on the same steps, with dispatch by counts.

    Args:
        load: recent steps.
        current: in use.
        proposed: to go to.
        costs: of the device and its links.
        horizon_steps: how long the new placement is expected to last.
    """
    now_us, then_us = (
        float(step_times(load, each, DISPATCHES["counts"], costs).total_S.mean())
        for each in (current, proposed)
    )
    moved_bytes = proposed.moved_experts(current) * costs.expert_bytes
    move_us = moved_bytes / costs.move_bytes_per_us
    gain = 1.0 - then_us / now_us if now_us else 0.0
    break_even = move_us / (now_us - then_us) if then_us < now_us else None
    return Decision(
        move=gain >= MIN_GAIN and break_even is not None and break_even <= horizon_steps,
        gain=gain,
        moved_mb=moved_bytes / 1e6,
        move_ms=move_us / 1000,
        break_even_steps=break_even,
        horizon_steps=horizon_steps,
    )


def most_gain(load: StepLoad, current: Placement, costs: Costs) -> float:
    """Share of the modelled MoE time that not even a perfect placement would gain more than."""
    now_us = float(step_times(load, current, DISPATCHES["counts"], costs).total_S.mean())
    return 1.0 - float(least_us(load, costs).mean()) / now_us if now_us else 0.0


def turned(proposed: Placement, current: Placement, costs: Costs) -> Placement:
    """The same placement with ranks renamed inside nodes, and nodes among each other, to keep what lies where it is."""
    node_G = costs.nodes(current.num_ranks)
    slots = proposed.slots_LGK.copy()
    for layer, (after_XG, before_XG) in enumerate(zip(proposed.hosts_LXG, current.hosts_LXG, strict=True)):
        kept_GG = after_XG.T.astype(np.int64) @ before_XG.astype(np.int64)
        target_G = _match(kept_GG, node_G)
        rank_G = np.arange(len(target_G))
        if kept_GG[rank_G, target_G].sum() > np.trace(kept_GG):
            slots[layer, target_G] = proposed.slots_LGK[layer]
    return Placement(proposed.layers, proposed.pools, slots)


def _match(kept_GG: npt.NDArray[np.int64], node_G: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """[ranks]: the new name of each, largest overlap first; ranks of one node stay together."""
    num_ranks = len(node_G)
    size_of = np.bincount(node_G)
    name_G = np.full(num_ranks, -1, np.int64)
    new_node: dict[int, int] = {}
    order = (-kept_GG).ravel().argsort(kind="stable")
    for rank, target in zip(*np.divmod(order, num_ranks), strict=True):
        mine, theirs = int(node_G[rank]), int(node_G[target])
        free = mine not in new_node and theirs not in new_node.values() and size_of[mine] == size_of[theirs]
        if name_G[rank] < 0 and target not in name_G and (new_node.get(mine) == theirs or free):
            name_G[rank] = target
            new_node[mine] = theirs
    return name_G
