"""What a step of a model costs where it is served, for the split over copies, for plans, and for traces to remember."""

import dataclasses
import logging

from vlmoe_model.config import ModelConfig
from vlmoe_model.precision import EXPERT_BYTES, choose_device, choose_dtype_for
from vlmoe_model.runner import count_parameters
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.expert_shares import sizes_of
from vlmoe_serve.placement.costs import Costs, CostsError
from vlmoe_serve.placement.machines import costs_on
from vlmoe_serve.placement.measured import kept_costs

_log = logging.getLogger(__name__)


def costs_for(options: EngineOptions, config: ModelConfig) -> Costs:
    """Measured, once on a machine, where a placement, moves or a trace depend on it; or else another machine's.

    Ask before anything is loaded: what computes beside it is measured as well.

    Raises:
        ValueError: a device or dtype that is not here.
    """
    if options.costs is not None:
        return options.costs
    device = choose_device(options.device)
    dtype = choose_dtype_for(config, options.dtype, device)
    sizes = sizes_of(config, EXPERT_BYTES[dtype], count_parameters(config))
    costs = costs_on(device, sizes)
    if options.placement is not None or options.rebalance is not None or options.trace_dir is not None:
        try:
            costs = kept_costs(device, sizes)
        except CostsError as error:
            _log.warning("%s; experts are placed with constants of %s", error, costs.origin)
        else:
            _log.info("what a step costs: %s", costs.origin)
    if options.rendezvous is None:
        return costs
    return dataclasses.replace(costs, ranks_per_node=options.local_ranks)
