"""From the options to the models that are served, each behind a batcher whose engine is yet to start."""

from typing import TypedDict

from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_serve.batching.batcher import Batcher, BatcherOptions
from vlmoe_serve.catalog.family import Family, families
from vlmoe_serve.catalog.models import ServedModel
from vlmoe_serve.cores import num_cores, share
from vlmoe_serve.engine import ENGINES, FAMILY
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.nodes import rendezvous_of
from vlmoe_serve.options import DEFAULTS, Options
from vlmoe_serve.placement.chosen import choose_placement, even_placement
from vlmoe_serve.placement.rebalancing import RebalanceOptions


class _Threads(TypedDict):
    threads: int
    spare_core: bool


def open_models(options: Options, metrics: Metrics) -> list[ServedModel]:
    """Each with an engine of its own, but for those that share weights and can share one."""
    names = [choice.name for choice in options.model]
    if (
        options.ranks > 1
        or options.trace_routing is not None
        or options.expert_memory
        or options.engine != DEFAULTS.engine
    ):
        return [
            open_model(options, choice.name, choice.path, metrics, len(names)) for choice in options.model
        ]
    directories = [open_directory(choice.path) for choice in options.model]
    models: dict[int, ServedModel] = {}
    groups = families(directories)
    for positions in groups:
        if len(positions) == 1:
            (only,) = positions
            models[only] = open_model(options, names[only], options.model[only].path, metrics, len(groups))
            continue
        first, *others = (directories[position].path for position in positions)
        batcher = Batcher(
            EngineOptions(
                path=first,
                siblings=tuple(others),
                device=options.device,
                dtype=options.dtype,
                **_threads(options, len(groups)),
                mode=options.routing_mode,
            ),
            BatcherOptions(max_queue_ms=options.max_queue_ms),
            observer=metrics.observer("+".join(names[position] for position in positions)),
            factory=FAMILY,
        )
        for position, member in zip(positions, Family(batcher, len(positions)).members(), strict=True):
            directory = directories[position]
            models[position] = ServedModel(names[position], directory, directory.processor(), member)
    return [models[position] for position in range(len(names))]


def _threads(options: Options, num_engines: int) -> _Threads:
    if options.threads:
        return {"threads": options.threads, "spare_core": False}
    num_processes = num_engines * max(1, options.ranks // options.nodes)
    threads = share(num_processes)
    return {"threads": threads, "spare_core": threads * num_processes >= num_cores()}


def open_model(options: Options, name: str, path: str, metrics: Metrics, num_engines: int) -> ServedModel:
    """One model with an engine of its own, which shares the cores with `num_engines - 1` others."""
    directory = open_directory(path)
    trace_dir = options.trace_routing
    if trace_dir is not None and len(options.model) > 1:
        trace_dir = trace_dir / name
    placement = None
    rebalance = RebalanceOptions() if options.rebalance == "on" and directory.config.moe_blocks else None
    if options.placement is not None:
        placement = choose_placement(
            options.placement,
            directory.config,
            options.ranks,
            trace_dir,
            device=options.device,
            num_nodes=options.nodes,
        )
    elif rebalance is not None:
        placement = even_placement(directory.config, options.ranks)
    batcher = Batcher(
        EngineOptions(
            path=directory.path,
            device=options.device,
            dtype=options.dtype,
            **_threads(options, num_engines),
            ranks=options.ranks,
            placement=placement,
            rendezvous=rendezvous_of(options),
            rebalance=rebalance,
            trace_dir=trace_dir,
            expert_memory=options.expert_memory,
            settings=options.vllm,
            mode=options.routing_mode,
        ),
        BatcherOptions(max_queue_ms=options.max_queue_ms),
        observer=metrics.observer(name),
        factory=ENGINES[options.engine],
    )
    return ServedModel(name, directory, directory.processor(), batcher)
