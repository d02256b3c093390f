"""Whether an engine can be had here, and what goes with it: known before anything starts."""

from importlib.util import find_spec

from vlmoe_model.routing_mode import DEFAULT
from vlmoe_serve.engine.vllm import settings
from vlmoe_serve.options import Options


def check_engine(options: Options) -> None:
    """Refuse what the chosen engine cannot do.

    Raises:
        ValueError: what, and what to do instead.
    """
    if options.engine != "vllm":
        if options.vllm:
            raise ValueError("--vllm needs --engine vllm")
        _check_ranks(options)
        return
    if find_spec("vllm") is None:
        raise ValueError('--engine vllm needs vLLM, not installed here: pip install "vlmoe[vllm]"')
    if options.expert_memory:
        raise ValueError("--expert-memory-mb is for --engine torch: vLLM keeps all experts in memory")
    for name, is_given in (
        ("--placement", options.placement is not None),
        ("--trace-routing", options.trace_routing is not None),
        ("--rebalance", options.rebalance == "on"),
    ):
        if is_given:
            raise ValueError(f"{name} is for --engine torch: vLLM places experts by itself")
    if options.nodes > 1:
        raise ValueError(
            "--nodes is for --engine torch: vLLM spreads by --vllm distributed_executor_backend=ray"
        )
    if options.routing_mode != DEFAULT or options.brownout_mode is not None:
        raise ValueError(
            "--capacity, --experts-per-token and --brownout are for --engine torch: vLLM routes in one way"
        )
    settings.parse(options.vllm)


def _check_ranks(options: Options) -> None:
    if options.ranks > 1:
        if options.expert_memory:
            raise ValueError("--expert-memory-mb is for one rank: several share the experts' memory already")
        return
    for name, is_given in (
        ("--placement", options.placement is not None),
        ("--rebalance", options.rebalance == "on"),
    ):
        if is_given:
            raise ValueError(f"{name} needs --ranks: one rank holds all experts")
