"""The default engine: our own runner, in this process or over several ranks."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from vlmoe_kernels import backend
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_kernels.ops import RoutingBackend
from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.checkpoint.fingerprint import model_id, space_id
from vlmoe_model.inputs import Job
from vlmoe_model.precision import EXPERT_BYTES, INT8, Dtype
from vlmoe_model.routing_mode import RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_serve.engine import ranks
from vlmoe_serve.engine.base import EngineFacts, EngineOptions
from vlmoe_serve.engine.constants import costs_for
from vlmoe_serve.engine.expert_shares import sizes_of
from vlmoe_serve.engine.meter import ExpertMeter, resident_bytes
from vlmoe_serve.engine.nodes import remote
from vlmoe_serve.engine.passes import run_apart
from vlmoe_serve.engine.report import EngineReport, ExpertLoad, ExpertMemory, MoveReport
from vlmoe_serve.engine.threads import leave_a_core
from vlmoe_serve.engine.tracing import RoutingTracer, trace_meta
from vlmoe_serve.engine.warm_up import warm_up_batches


class TorchEngine:
    """A runner and what it says about itself."""

    def __init__(
        self, runner: Runner | ranks.Ranks, facts: EngineFacts, tracer: RoutingTracer | None = None
    ) -> None:
        self.facts = facts
        self._runner = runner
        self._tracer = tracer
        self._is_warm = False
        self._routes_itself = isinstance(backend(runner.backend), RoutingBackend)
        self._meter = _meter(runner)

    @property
    def runner(self) -> Runner | ranks.Ranks:
        """What computes."""
        return self._runner

    def warm_up_batches(self) -> Sequence[Sequence[Job]]:
        """Every head once; then the shortest and the longest job, alone and several times."""
        return warm_up_batches(self._runner.config)

    def run(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        """One packed forward; one more for jobs that must not share it."""
        return run_apart(jobs, self._kind, self._forward)

    def _kind(self, job: Job) -> tuple[RoutingMode | None, bool]:
        # a backend that routes by itself is asked for what it chose in another way, which others must not notice
        return job.mode, job.explain and self._routes_itself

    def _forward(self, jobs: Sequence[Job]) -> Sequence[npt.NDArray[np.float32]]:
        tracer = self._tracer if self._is_warm else None
        if isinstance(self._runner, Runner):
            outputs = self._runner.run(jobs, None if tracer is None else tracer.observe)
        else:
            outputs = self._runner.run(jobs, tracer)
        if self._meter is not None:
            self._meter.end_step()
        return outputs

    def beat(self) -> None:
        """Hear of every rank, and of the GPU: one whose context is lost says so here, whatever it is asked."""
        if isinstance(self._runner, ranks.Ranks):
            self._runner.beat()
        elif self._runner.device == "cuda":
            torch.cuda.synchronize()

    def report(self) -> EngineReport:
        """Load of experts and ranks, and memory."""
        memory = (resident_bytes(),) if isinstance(self._runner, Runner) else self._runner.memory_G
        load = self._take_load()
        rebalancer = None if isinstance(self._runner, Runner) else self._runner.rebalancer
        moves = MoveReport() if rebalancer is None else rebalancer.take()
        return EngineReport(load, memory, self._expert_memory(), moves, self._device_bytes())

    def _take_load(self) -> ExpertLoad | None:
        if self._meter is None:
            return None
        if isinstance(self._runner, Runner):
            for layer in self._runner.network.take_load():
                self._meter.add(*layer)
        return self._meter.take()

    def _device_bytes(self) -> int:
        return torch.cuda.memory_reserved() if self._runner.device == "cuda" else 0

    def _expert_memory(self) -> ExpertMemory | None:
        taken = self._runner.take_expert_memory() if isinstance(self._runner, Runner) else None
        return None if taken is None else ExpertMemory(**dataclasses.asdict(taken))

    def warmed_up(self) -> None:
        """Record and count from here on."""
        self._is_warm = True
        self._take_load()
        rebalancer = self._runner.rebalancer if isinstance(self._runner, ranks.Ranks) else None
        if self._meter is not None and rebalancer is not None:
            self._meter.on_step = rebalancer.saw
        self._expert_memory()

    def close(self) -> None:
        """Write the rest of the trace."""
        if self._tracer is not None:
            self._tracer.close()


def load(options: EngineOptions, family: Sequence[TorchEngine] = ()) -> TorchEngine:
    """Load a checkpoint.

    Args:
        options: which, and where.
        family: engines of this process; what the checkpoint has in common with theirs is in memory once.

    Raises:
        ValueError: a bad checkpoint, or an unknown device or dtype.
    """
    # The runner checks it and says what is allowed.
    dtype = cast(Dtype, options.dtype)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    directory = open_directory(resolve(options.path))
    if not directory.config.heads:
        raise ValueError(f"{directory.path}: the checkpoint has no head, so there is nothing to serve")
    if directory.config.moe_blocks:
        # one value for all ranks, or they would split differently; before there is anything that computes
        options = dataclasses.replace(options, costs=costs_for(options, directory.config))
    # Hashing reads every weight and does not hold the interpreter: it runs while they are loaded and packed.
    with ThreadPoolExecutor(1) as pool:
        ids = pool.submit(
            lambda: (model_id(directory), space_id(directory, int8_experts=options.dtype == INT8))
        )
        runner = (
            Runner.load(
                options.path,
                device=options.device,
                dtype=dtype,
                threads=options.threads,
                family=[one.runner for one in family if isinstance(one.runner, Runner)],
                mode=options.mode,
                expert_memory=options.expert_memory,
            )
            if options.ranks == 1
            else _over_ranks(options, lambda: ids.result()[0])
        )
        if isinstance(runner, Runner):
            runner.prepare()
    model, space = ids.result()
    tracer = None if options.trace_dir is None else _tracer(options, runner, model)
    engine = TorchEngine(
        runner,
        EngineFacts(
            model_id=model,
            # the checkpoint's own capacity is part of its space already
            space_id=space if space is None else options.mode.space(space, runner.config),
            logit_scale=runner.logit_scale,
            dtype=runner.dtype,
            device=runner.device,
            num_parameters=runner.num_parameters,
            patch_size=runner.config.patch_size,
            backend=runner.backend,
            routing_mode=options.mode.on(runner.config).name,
        ),
        tracer,
    )
    if options.spare_core and isinstance(runner, Runner) and runner.device == "cpu":
        all_heads, *_ = engine.warm_up_batches()
        leave_a_core(lambda: runner.run([*all_heads] * 4), options.threads)
    return engine


def _meter(runner: Runner | ranks.Ranks) -> ExpertMeter | None:
    if not runner.config.moe_blocks:
        return None
    num_ranks = 1 if isinstance(runner, Runner) else runner.num_ranks
    meter = ExpertMeter(runner.config, num_ranks, runner.config.dim * runner.row_dtype.itemsize)
    runner.observe_load(meter.observe)
    return meter


def _over_ranks(options: EngineOptions, model_id: Callable[[], str]) -> ranks.Ranks:
    if options.rendezvous is None:
        return ranks.load(options)
    return remote.load(options, options.rendezvous, model_id)


def _tracer(options: EngineOptions, runner: Runner | ranks.Ranks, model: str) -> RoutingTracer:
    assert options.trace_dir is not None
    config = runner.config
    if not config.moe_blocks:
        raise ValueError("routing cannot be traced: the checkpoint has no mixture blocks")
    try:
        # here, not above: pyarrow is needed by those alone who record
        from vlmoe_serve.placement.trace_writer import TraceWriter
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ValueError('recording needs pyarrow, not installed here: pip install "vlmoe[plan]"') from None
    sizes = sizes_of(config, EXPERT_BYTES[runner.dtype], runner.num_parameters)
    meta = trace_meta(
        config, model, options.ranks, device=runner.device, sizes=sizes, costs=costs_for(options, config)
    )
    return RoutingTracer(TraceWriter(options.trace_dir, meta), config)
