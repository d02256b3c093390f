"""What the routers of a forward pass chose, as rows of a routing trace."""

# T = tokens of the batch, K = choices per token, R = rows

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import TEXT, VISION, Packed
from vlmoe_model.routing import Routing
from vlmoe_serve.placement.costs import Costs
from vlmoe_serve.placement.machines import Sizes
from vlmoe_serve.placement.trace_format import COLUMNS, Rows, TraceMeta

if TYPE_CHECKING:
    # needs pyarrow, which ranks that only tell their rows do not
    from vlmoe_serve.placement.trace_writer import TraceWriter


class RoutingTracer:
    """Hand `observe` to the runner. Every sequence counts as a request; steps and requests count from the time."""

    def __init__(
        self,
        writer: "TraceWriter",
        config: ModelConfig,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._writer = writer
        self._config = config
        self._now_us = now_us
        self._next_step = self._next_request = now_us()

    def observe(self, packed: Packed, log: Sequence[Routing]) -> None:
        """Record one step of one rank."""
        self._writer.add(
            rows_of(packed, log, self._config, self._next_step, self._now_us(), self._next_request)
        )
        self._next_step += 1
        self._next_request += len(packed.jobs)

    def record(self, parts: Sequence[tuple[Sequence[int], Rows | None]]) -> None:
        """Record one step of several ranks.

        Args:
            parts: of each rank, which jobs of the batch were its own, and its rows as `RankDone` has them.
        """
        now_us = self._now_us()
        for jobs, rows in parts:
            if rows is not None:
                self._writer.add(
                    dataclasses.replace(
                        rows,
                        step=np.full_like(rows.step, self._next_step),
                        time_us=np.full_like(rows.time_us, now_us),
                        request=self._next_request + np.array(jobs, np.int64)[rows.request],
                    )
                )
        self._next_step += 1
        self._next_request += sum(len(jobs) for jobs, _ in parts)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def trace_meta(
    config: ModelConfig,
    model_id: str,
    num_ranks: int = 1,
    *,
    device: str | None = None,
    sizes: Sizes | None = None,
    costs: Costs | None = None,
) -> TraceMeta:
    """What the trace of a model says of it, and of what it runs on."""
    pools = config.num_experts, config.num_experts
    return TraceMeta(model_id, tuple(config.moe_blocks), pools, num_ranks, device, sizes, costs)


def rows_of(
    packed: Packed,
    log: Sequence[Routing],
    config: ModelConfig,
    step: int,
    time_us: int,
    first_request: int,
    rank: int = 0,
) -> Rows:
    """One row a choice that found room.

    Args:
        packed: the batch; sequence i of it gets the request number `first_request` + its job.
        log: as the network filled it, for every mixture block the image router's and then the text router's.
        config: of the network.
        step: number of this forward pass.
        time_us: since 1970.
        first_request: number of job 0.
        rank: home of the batch.
    """
    job_T, token_T = _positions(packed)
    columns: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in COLUMNS}
    routings = iter(log)
    for block in config.moe_blocks:
        is_fused = config.vl_start is not None and block >= config.vl_start
        tokens = packed.fused if is_fused else packed.modality
        for modality, pool in enumerate((VISION, TEXT)):
            routing = next(routings)
            rows_P = tokens.rows[pool].cpu().numpy()
            experts_PK = routing.experts_TK.cpu().numpy()
            place_R, slot_R = (experts_PK >= 0).nonzero()
            row_R = rows_P[place_R]
            size = len(row_R)
            for name, values in (
                ("request", first_request + job_T[row_R]),
                ("token", token_T[row_R]),
                ("modality", np.full(size, modality, np.int8)),
                ("layer", np.full(size, block, np.int16)),
                ("slot", slot_R.astype(np.int8)),
                ("expert", experts_PK[place_R, slot_R].astype(np.int16)),
                ("gate", routing.gates_TK.float().cpu().numpy()[place_R, slot_R].astype(np.float16)),
            ):
                columns[name].append(values)
    joined = {name: np.concatenate(parts) for name, parts in columns.items() if parts}
    num_rows = len(joined["expert"]) if joined else 0
    constant = {"step": step, "time_us": time_us, "rank": rank}
    return Rows(
        **{
            name: np.full(num_rows, constant[name], dtype)
            if name in constant
            else joined.get(name, np.zeros(0)).astype(dtype, copy=False)
            for name, dtype in COLUMNS.items()
        }
    )


def _positions(packed: Packed) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """[T]: the job of each token, and its position in its sequence."""
    jobs = np.array(packed.jobs, np.int64)
    job_parts, token_parts, first = [], [], 0
    for run in packed.runs:
        job_parts.append(np.repeat(jobs[first : first + run.num_sequences], run.length))
        token_parts.append(np.tile(np.arange(run.length, dtype=np.int32), run.num_sequences))
        first += run.num_sequences
    return np.concatenate(job_parts), np.concatenate(token_parts)
