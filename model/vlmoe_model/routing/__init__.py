"""Which expert handles a token.

ROUTERS is the table: a router maps the rows of one pool to a `Routing`. AUX_LOSSES maps a name to a balance loss.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from vlmoe_model.routing import losses
from vlmoe_model.routing.router import BatchPriorityRouter, Router, Routing, TopKRouter

ROUTERS: Mapping[str, type[Router]] = {
    "top_k": TopKRouter,
    "batch_priority": BatchPriorityRouter,
}

AUX_LOSSES: Mapping[str, Callable[[Routing], Tensor]] = {
    "vloss": losses.vloss,
    "importance": losses.importance,
    "load": losses.load,
    "gshard": losses.gshard,
    "z": losses.z_loss,
}

__all__ = ["AUX_LOSSES", "ROUTERS", "BatchPriorityRouter", "Router", "Routing", "TopKRouter"]
