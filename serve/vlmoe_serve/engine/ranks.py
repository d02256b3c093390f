"""One model over several processes: the engine process is rank 0 and starts the others.

    rank 0: share out the jobs -> send each rank its own -> run its own -> collect
    rank n: (rank.py) receive -> run -> answer

Sequences are shared out by what they cost; experts are reached through `vlmoe_kernels.collectives`. A rank that fails
ends the whole group, this process included: the supervisor starts it again and runs the batch again. A rank never
outlives rank 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_kernels.collectives.shared_memory import make_descriptors
from vlmoe_model.config import ModelConfig
from vlmoe_model.feed_forward import ObserveLoad
from vlmoe_model.inputs import Job
from vlmoe_model.packing import Packed
from vlmoe_model.precision import choose_device
from vlmoe_model.routing import Routing
from vlmoe_model.runner import Runner
from vlmoe_serve.batching.ticket import Work
from vlmoe_serve.cores import num_cores
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.constants import costs_for
from vlmoe_serve.engine.layer_moves import LayerMoves, layer_moves
from vlmoe_serve.engine.loading import check_devices, free_port, join_host, load_share
from vlmoe_serve.engine.meter import resident_bytes
from vlmoe_serve.engine.orders import Orders
from vlmoe_serve.engine.other_ranks import OtherRank, RankProcess
from vlmoe_serve.engine.own_cores import Cores, cores_of
from vlmoe_serve.engine.planning import Planning, toll
from vlmoe_serve.engine.protocol import Jobs
from vlmoe_serve.engine.rebalancer import Rebalancer
from vlmoe_serve.engine.tracing import RoutingTracer, rows_of
from vlmoe_serve.placement.trace_format import Rows

# operations of a dense block, half a millisecond of a thread: for less, waking another takes too long
_WORTH_LENDING = 1e8


class Ranks:
    """A `Runner` whose experts are shared out over several processes."""

    def __init__(
        self,
        runner: Runner,
        others: Sequence[OtherRank],
        options: EngineOptions,
        cores: Cores,
        moves: LayerMoves | None = None,
        rebalancer: Rebalancer | None = None,
    ) -> None:
        self._runner = runner
        self._others = others
        # of a rank, that others may lend; none where they may not: other kernels' bits may depend on their number
        self.threads = options.threads if runner.backend == "cpu_native" else 0
        self._per_node = options.local_ranks
        self._cores = cores
        self._moves = moves
        self.rebalancer = rebalancer
        self.num_ranks = 1 + len(others)
        self.config: ModelConfig = runner.config
        self.device, self.dtype, self.backend = runner.device, runner.dtype, runner.backend
        self.row_dtype = runner.row_dtype
        self.num_parameters, self.logit_scale = runner.num_parameters, runner.logit_scale

    def run(self, jobs: Sequence[Job], tracer: RoutingTracer | None = None) -> list[npt.NDArray[np.float32]]:
        """See `Runner.run`. What goes wrong ends the process: the ranks are out of step.

        tracer: told what the routers of all ranks chose.
        """
        shares = share_out(jobs, 1 + len(self._others), self.config)
        rows: list[Rows | None] = []

        def observe(packed: Packed, log: Sequence[Routing]) -> None:
            rows.append(rows_of(packed, log, self.config, 0, 0, 0))

        try:
            orders = self._orders()
            threads = self._threads_of(jobs, shares)
            for other, share, num in zip(self._others, shares[1:], threads[1:], strict=True):
                other.send(Jobs(tuple(jobs[i] for i in share), tracer is not None, orders, num))
            if self._moves is not None and orders is not None:
                self._moves.obey(orders)
            with self._cores.batch(threads[0]):
                mine = self._runner.run([jobs[i] for i in shares[0]], None if tracer is None else observe)
            done = [(mine, rows[0] if rows else None), *(other.done() for other in self._others)]
        except Exception as error:
            raise SystemExit(f"the ranks have to start again: {type(error).__name__}: {error}") from error
        if tracer is not None:
            tracer.record([(share, of_rank) for share, (_, of_rank) in zip(shares, done, strict=True)])
        results: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(jobs)
        for share, (outputs, _) in zip(shares, done, strict=True):
            for index, output in zip(share, outputs, strict=True):
                results[index] = output
        return results

    def _threads_of(self, jobs: Sequence[Job], shares: Sequence[Sequence[int]]) -> list[int]:
        """Of each rank, outside of mixtures; 0 for its own."""
        if all(shares) or not self.threads:
            return [0] * len(shares)
        work = [Work.of(jobs[index], self.config.patch_size).tokens for share in shares for index in share]
        dim = self.config.dim
        if sum(work) * (8 * dim**2 + 4 * dim * self.config.ffn_dim) < _WORTH_LENDING:
            return [0] * len(shares)
        return threads_of([len(share) for share in shares], self.threads, self._per_node)

    def _orders(self) -> Orders | None:
        if self.rebalancer is None or self._moves is None:
            return None
        return self.rebalancer.orders([self._moves.state, *(other.moves for other in self._others)])

    def observe_load(self, observe: ObserveLoad) -> None:
        """See `Runner.observe_load`: rank 0 learns the counts of all ranks."""
        self._runner.observe_load(observe)

    @property
    def memory_G(self) -> tuple[int, ...]:
        """Resident bytes of every rank's process."""
        return (resident_bytes(), *(other.memory_bytes for other in self._others))

    def beat(self) -> None:
        """Hear of every rank. A rank that hangs makes this hang, and the watchdog in front ends them all."""
        for other in self._others:
            other.ping()
        for other in self._others:
            other.wait_for_pong()


def load(options: EngineOptions) -> Ranks:
    """Start the other ranks and load, all at the same time.

    Raises:
        ValueError: a bad checkpoint, or a placement for another model.
    """
    check_options(options)
    group = make_descriptors(options.ranks)
    port = free_port()
    others = [RankProcess(rank, options, group[rank], port) for rank in range(1, options.ranks)]
    runner = load_share(options, join_host(options, group[0], port))
    for other in others:
        other.wait_until_loaded()
    return together(options, runner, others)


def check_options(options: EngineOptions) -> None:
    """Raises ValueError where experts are to move and cannot, or a rank would be without a device."""
    check_devices(options)
    if options.rebalance is not None and choose_device(options.device) != "cpu":
        raise ValueError("--rebalance moves experts between CPUs only, and this model runs on a GPU")


def together(options: EngineOptions, runner: Runner, others: Sequence[OtherRank]) -> Ranks:
    """All ranks, loaded, wherever the others are."""
    # the process that plans has started by then, and is as free as this one was
    rebalancer = _rebalancer(options, runner)
    cores = cores_of(options, 0, runner.device)
    return Ranks(runner, others, options, cores, layer_moves(runner, options), rebalancer)


def _rebalancer(options: EngineOptions, runner: Runner) -> Rebalancer | None:
    if options.rebalance is None or options.placement is None:
        return None
    costs = costs_for(options, runner.config)
    share = toll(num_cores(), options.local_ranks, options.threads)
    return Rebalancer(options.placement, costs, options.rebalance, Planning(), toll=share)


def threads_of(num_jobs: Sequence[int], threads: int, per_node: int) -> list[int]:
    """Threads of each rank outside of mixtures: those of a host's idle ranks go to the ones that have sequences.

    Args:
        num_jobs: of each rank.
        threads: of a rank.
        per_node: ranks that share a host, one after the other.
    """
    found: list[int] = []
    for first in range(0, len(num_jobs), per_node):
        here = num_jobs[first : first + per_node]
        busy = sum(num > 0 for num in here)
        found += [threads * len(here) // busy if num else threads for num in here]
    return found


def share_out(jobs: Sequence[Job], num_ranks: int, config: ModelConfig) -> list[list[int]]:
    """Indices of the jobs of each rank: the dearest first, each to the rank that has least; in order within a rank.

    What a job costs follows from the multiplications of a layer: 4 dim + 2 ffn_dim a token and output of width dim, and
    2 for each pair of tokens in attention.
    """
    per_pair = 1 / (2 * config.dim + config.ffn_dim)
    work = [Work.of(job, config.patch_size) for job in jobs]
    costs = [one.tokens + per_pair * one.attention for one in work]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0.0] * num_ranks
    for index in sorted(range(len(jobs)), key=lambda i: -costs[i]):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += costs[index]
    return [sorted(share) for share in shares]
