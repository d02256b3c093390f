"""What rank 1 and up do, however rank 0 reaches them: load their share, then run what they are sent."""

import dataclasses
import gc
from collections.abc import Sequence
from typing import Protocol

from vlmoe_kernels.collectives import Group
from vlmoe_kernels.heap import keep_freed_memory
from vlmoe_model.packing import Packed
from vlmoe_model.routing import Routing
from vlmoe_model.runner import Runner
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.layer_moves import layer_moves
from vlmoe_serve.engine.loading import load_share
from vlmoe_serve.engine.meter import resident_bytes
from vlmoe_serve.engine.own_cores import Cores, cores_of
from vlmoe_serve.engine.protocol import FromRank, Jobs, LoadFailed, Ping, Pong, RankDone, ToRank
from vlmoe_serve.engine.tracing import rows_of
from vlmoe_serve.placement.trace_format import Rows


class Boss(Protocol):
    """Rank 0, as another rank reaches it. Both raise EOFError or OSError when it is gone."""

    def hear(self) -> ToRank:
        """Its next message."""
        ...

    def tell(self, message: FromRank) -> None:
        """Send it."""
        ...


def do_duty(boss: Boss, options: EngineOptions, group: Group) -> None:
    """Return only when the share cannot be loaded, after rank 0 was told why.

    Raises:
        EOFError, OSError: rank 0 is gone. GroupError: another rank is.
    """
    keep_freed_memory()
    try:
        runner = load_share(options, group)
    except (ValueError, OSError) as error:
        boss.tell(LoadFailed(" ".join(str(error).split())))
        return
    moves = layer_moves(runner, options)
    cores = cores_of(options, group.rank, runner.device)
    gc.collect()
    gc.freeze()
    boss.tell(RankDone((), resident_bytes()))
    while True:
        asked = boss.hear()
        if isinstance(asked, Ping):
            boss.tell(Pong(asked.id))
        else:
            if moves is not None and asked.orders is not None:
                moves.obey(asked.orders)
            done = _run(runner, asked, group.rank, cores)
            boss.tell(done if moves is None else dataclasses.replace(done, moves=moves.state))


def _run(runner: Runner, asked: Jobs, rank: int, cores: Cores) -> RankDone:
    rows: list[Rows] = []

    def observe(packed: Packed, log: Sequence[Routing]) -> None:
        rows.append(rows_of(packed, log, runner.config, 0, 0, 0, rank))

    with cores.batch(asked.threads):
        outputs = runner.run(asked.jobs, observe if asked.traced else None)
    blocks = tuple(output.tobytes() for output in outputs)
    return RankDone(blocks, resident_bytes(), rows[0] if rows else None)
