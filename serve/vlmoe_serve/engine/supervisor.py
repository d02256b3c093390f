"""Keeps an engine process running: starts it, hands it batches, starts it again when it dies or hangs.

    start -> run, run ... -> stop
    (death) -> restart, with a growing pause while nothing succeeds; run() waits for the next life

A batch that was in flight when the process ended fails with `EngineDied`; `recovery.py` decides what to run
again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlmoe_model.inputs import Job
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.child import Child
from vlmoe_serve.engine.failures import EngineDown, EngineStartError
from vlmoe_serve.engine.protocol import BatchDone, EngineInfo, Load
from vlmoe_serve.engine.report import EngineReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """How patient to be.

    start_timeout_s: loading and warm-up. hang_s: one batch, or one ping, without an answer. ping_s: idle time after
    which it is asked whether it lives. max_down_s: how long callers wait for an engine that does not come back.
    max_pause_s: longest pause between restarts.
    """

    start_timeout_s: float = 600.0
    hang_s: float = 60.0
    ping_s: float = 5.0
    max_down_s: float = 30.0
    max_pause_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "hang_s", "ping_s", "max_down_s", "max_pause_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


class Supervisor:
    """One engine, through all the lives of its process.

    on_restart: told how the process ended, each time it is started again. on_report: told what the engine reports.
    """

    def __init__(
        self,
        factory: str,
        engine: EngineOptions,
        options: SupervisorOptions | None = None,
        on_restart: Callable[[str], None] = lambda how: None,
        on_report: Callable[[EngineReport], None] = lambda report: None,
    ) -> None:
        self.num_restarts = 0
        self._load = Load(factory, engine)
        self._options = options or SupervisorOptions()
        self._on_restart = on_restart
        self._on_report = on_report
        self._child: Child | None = None
        self._info: EngineInfo | None = None
        self._lives: asyncio.Task[None] | None = None
        self._stopped = False
        self._changed = asyncio.Event()
        self._down_since_s = 0.0
        self._last_answer_s = 0.0

    async def start(self) -> EngineInfo:
        """Start the process; return when a real forward has passed.

        Raises:
            EngineStartError: it cannot load, with its reason.
        """
        child, self._info = await self._spawn()
        self._enter(child)
        self._lives = asyncio.get_running_loop().create_task(self._live(child))
        return self._info

    async def run(self, jobs: Sequence[Job]) -> BatchDone:
        """Compute one batch; waits while the engine is being restarted. The process holds two at most.

        Raises:
            EngineDied, BatchFailed: see `failures.py`. EngineDown: it does not come back, or was stopped.
        """
        child = await self._current()
        done = await child.run(jobs)
        self._last_answer_s = time.monotonic()
        return done

    def leave(self, member: int) -> None:
        """Of an engine with several checkpoints, one is served no more: its memory is freed, now and in later lives."""
        engine = self._load.options
        left = tuple(sorted({*engine.left, member}))
        self._load = replace(self._load, options=replace(engine, left=left))
        if self._child is not None:
            self._child.leave(left)

    async def stop(self) -> None:
        """End the process. What is in flight fails."""
        self._stopped = True
        if self._lives is not None:
            self._lives.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._lives
        if self._child is not None:
            # Busy, it would not notice that we hung up until its batch is done.
            await self._child.bury(grace_s=0.0 if self.busy_s > 0 else 2.0)
            self._child = None
        self._changed.set()

    @property
    def info(self) -> EngineInfo:
        """What is running. Only after `start`."""
        assert self._info is not None, "the engine was not started"
        return self._info

    @property
    def started(self) -> bool:
        """Whether `start` has succeeded once; restarts do not change it."""
        return self._info is not None

    @property
    def alive(self) -> bool:
        """Whether there is a process that has passed its warm-up."""
        return self._child is not None and self._child.alive

    @property
    def ready(self) -> bool:
        """Alive, and making progress: no batch or ping is unanswered for half the time that counts as a hang."""
        return self.alive and self.busy_s < self._options.hang_s / 2

    @property
    def busy_s(self) -> float:
        """For how long it has been computing the current batch, or owes a pong; 0 when idle or down."""
        since_s = self._child.busy_since_s if self._child is not None else None
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._child is None else self._child.pid

    async def _current(self) -> Child:
        while True:
            if self._stopped:
                raise EngineDown("the engine was stopped")
            if self._child is not None:
                return self._child
            wait_s = self._down_since_s + self._options.max_down_s - time.monotonic()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                raise EngineDown(f"the engine has been down for {self._options.max_down_s:g} s") from None

    async def _live(self, child: Child) -> None:
        while True:
            born_s = time.monotonic()
            try:
                await child.listen(self._options.hang_s, self._options.ping_s, self._on_report)
            except Exception:
                _log.exception("the engine process sent what we do not understand; it is started again")
            # No await between the end of listen and here: nobody is handed a process that is gone.
            self._child = None
            self._changed.clear()
            self._down_since_s = time.monotonic()
            how = await child.bury()
            self.num_restarts += 1
            _log.warning("the engine process %s; starting it again (restart %d)", how, self.num_restarts)
            self._on_restart(how)
            child = await self._revive(0.0 if self._last_answer_s > born_s else 0.1)
            self._enter(child)

    async def _revive(self, pause_s: float) -> Child:
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, 0.1), self._options.max_pause_s)
            try:
                child, info = await self._spawn()
            except (EngineStartError, OSError) as error:
                _log.error("the engine did not come back: %s; next try in %.1f s", error, pause_s)
                continue
            if self.info.facts.resembles(info.facts, self._load.options.left):
                return child
            await child.bury()
            _log.error(
                "the checkpoint changed while it was served: %s is now %s", self.info.facts, info.facts
            )

    async def _spawn(self) -> tuple[Child, EngineInfo]:
        child = await Child.spawn(self._load.options.threads, self._load.options.ranks)
        try:
            return child, await child.handshake(self._load, self._options.start_timeout_s)
        except BaseException:
            # While it loads it would not notice that we hung up, and its reason is known by now.
            await child.bury(grace_s=0.0)
            raise

    def _enter(self, child: Child) -> None:
        self._child = child
        self._changed.set()
