"""From the options to the models that are served, each behind a batcher whose engine is yet to start."""

from collections.abc import Iterable, Mapping
from typing import TypedDict

from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory
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
    if not _can_share(options):
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
        members = {names[position]: directories[position] for position in positions}
        models.update(zip(positions, _open_family(options, members, metrics, len(groups)), strict=True))
    return [models[position] for position in range(len(names))]


def open_beside(
    options: Options, metrics: Metrics, name: str, path: str, served: Iterable[ServedModel]
) -> list[ServedModel]:
    """A model to be served beside others, or in the place of the one of its name.

    Returns:
        It, and behind it, if it shares weights with some that are served, these once more: in one engine with it.
    """
    directory = open_directory(path)
    others = [model for model in served if model.name != name]
    (family,) = [
        positions
        for positions in families([directory, *(model.directory for model in others)])
        if 0 in positions
    ]
    if len(family) == 1 or not _can_share(options):
        return [open_model(options, name, path, metrics, len(options.model))]
    relatives = [others[position - 1] for position in family if position > 0]
    members = {name: directory, **{model.name: model.directory for model in relatives}}
    return _open_family(options, members, metrics, len(options.model))


def _can_share(options: Options) -> bool:
    return (
        options.ranks == 1
        and options.trace_routing is None
        and not options.expert_memory
        and options.engine == DEFAULTS.engine
    )


def _open_family(
    options: Options, members: Mapping[str, CheckpointDir], metrics: Metrics, num_engines: int
) -> list[ServedModel]:
    first, *others = (directory.path for directory in members.values())
    batcher = Batcher(
        EngineOptions(
            path=first,
            siblings=tuple(others),
            device=options.device,
            dtype=options.dtype,
            **_threads(options, num_engines),
            mode=options.routing_mode,
        ),
        BatcherOptions(max_queue_ms=options.max_queue_ms),
        observer=metrics.observer("+".join(members)),
        factory=FAMILY,
    )
    return [
        ServedModel(name, directory, directory.processor(), member)
        for (name, directory), member in zip(
            members.items(), Family(batcher, len(members)).members(), strict=True
        )
    ]


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
