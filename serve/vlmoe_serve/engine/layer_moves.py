"""One rank's part in moving experts: prepare a layer beside the work, switch to it between two steps.

orders (with a batch) -> LayerMoves: prepare in a thread of low priority, under a byte budget -> state -> switch
"""

import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from vlmoe_model.errors import CheckpointError
from vlmoe_model.moving import ExpertMover, Prepared
from vlmoe_model.runner import Runner
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.orders import MoveState, Orders

_LOW = 10


class LayerMoves:
    """See above. bytes_per_s: of weights, read and packed, on average."""

    def __init__(self, runner: Runner, bytes_per_s: float) -> None:
        self._mover = ExpertMover(runner)
        self._bytes_per_s = bytes_per_s
        self._thread = ThreadPoolExecutor(1, "moves", initializer=_be_patient)
        self._preparing: Future[Prepared] | None = None

    def obey(self, orders: Orders) -> None:
        """Between two steps.

        Raises:
            CheckpointError: at_once, and the weights cannot be read.
        """
        if orders.switch:
            assert self._preparing is not None
            self._mover.switch(self._preparing.result())
            self._preparing = None
        for move in orders.at_once:
            self._mover.switch(self._mover.prepare(move.block, move.held))
        if orders.prepare is not None:
            self._preparing = self._thread.submit(
                self._mover.prepare, orders.prepare.block, orders.prepare.held, self._pace
            )

    @property
    def state(self) -> MoveState:
        """How far it is."""
        if self._preparing is None or not self._preparing.done():
            return MoveState()
        error = self._preparing.exception()
        if error is None:
            return MoveState(is_ready=True)
        if not isinstance(error, CheckpointError):
            raise error
        return MoveState(failure=" ".join(str(error).split()))

    def _pace(self, num_bytes: int) -> None:
        time.sleep(num_bytes / self._bytes_per_s)


def _be_patient() -> None:
    """Linux keeps a priority for each thread; elsewhere it would slow down the whole process."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # from where the process is, as `nice` counts: an absolute one could be above it, which is not allowed
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LOW)


def layer_moves(runner: Runner, options: EngineOptions) -> LayerMoves | None:
    """Of a rank whose experts may move."""
    return None if options.rebalance is None else LayerMoves(runner, options.rebalance.bytes_per_s)
