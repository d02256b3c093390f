"""Placement policies: pure functions from load, budget and costs to a placement.

POLICIES is the table; a new policy is one file and one line. `oracle` and `shard` exist for evaluation only: the first
sees the future, the second is no placement (see `evaluate.py`).
"""

from collections.abc import Mapping

from vlmoe_serve.placement.policies.affinity import affinity
from vlmoe_serve.placement.policies.base import Budget, BudgetError, Policy, default_slots
from vlmoe_serve.placement.policies.eplb import eplb
from vlmoe_serve.placement.policies.fixed import linear, round_robin
from vlmoe_serve.placement.policies.lpt_risk import lpt_risk
from vlmoe_serve.placement.policies.planner import planner

POLICIES: Mapping[str, Policy] = {
    "linear": linear,
    "round_robin": round_robin,
    "eplb": eplb,
    "lpt_risk": lpt_risk,
    "affinity": affinity,
    "planner": planner,
}

__all__ = ["POLICIES", "Budget", "BudgetError", "Policy", "default_slots"]
