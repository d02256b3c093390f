"""One round: servers started, measured in turns, ended.

start -> right answers? -> warm up -> memory, rest -> alone -> many clients -> Poisson arrivals -> overload, overload

A machine's speed changes while it is measured. So the servers of a round run beside each other, and each phase goes
through all of them before the next one begins. One that is busy while nobody asks it would slow the others down: it has
all of its phases by itself, and is ended before theirs.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peers.environments import EnvironmentFailed, Environments, NotInstalled
from peers.process import NotStarted, Running, free_port, running
from peers.results import Figures, rotated
from peers.systems import Launch, System
from vlmoe_loadtests.arrivals import poisson
from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import Ask
from vlmoe_loadtests.records import Record
from vlmoe_loadtests.summary import percentile
from vlmoe_loadtests.wire import Pool

_ROOT = Path(__file__).parents[2]
# the model's code and the programs; our own server gets no path that it would not have anyway
_PATHS = (_ROOT / "kernels", _ROOT / "model", _ROOT / "loadtests")
# a server rests when it takes less than this share of a core
_IDLE_SHARE, _REST_S, _MOST_RESTS = 0.3, 0.5, 10
_IDLE_S = 1.0
# of a core, while nobody asks: more than this would be seen in what the others do
BUSY_SHARE = 0.03
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class WrongAnswers(RuntimeError):
    """A server does not answer as the model does, so its figures would mean nothing."""


ServerFailed = EnvironmentFailed | NotInstalled | NotStarted | WrongAnswers


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure. seconds: of one phase. timeout_s: when callers give up. cores: of the servers; none: all."""

    model: str = "demo"
    seconds: float = 6.0
    clients: int = 32
    load: float = 0.7
    overloads: tuple[float, float] = (1.5, 3.0)
    objective_ms: float = 250.0
    timeout_s: float = 2.0
    seed: int = 0
    cores: tuple[int, ...] = ()

    @property
    def warm_s(self) -> float:
        """A third of a phase."""
        return self.seconds / 3


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and the best answer to each."""

    asks: Sequence[Ask]
    best: Sequence[str]


async def measure(
    systems: Sequence[System],
    environments: Environments,
    questions: Questions,
    plan: Plan,
    capacity: float,
    number: int = 0,
) -> dict[str, Figures | ServerFailed]:
    """All figures of some servers by their names, or why there are none; at a capacity of 0, without loads.

    Args:
        systems: in the order in which they are started.
        environments: where their interpreters are.
        questions: what they are asked.
        plan: how.
        capacity: what the loads are shares of, in answers a second.
        number: of the round: each phase of it begins with another server.
    """
    found: dict[str, Figures | ServerFailed] = {}
    pythons = {}
    for system in systems:
        # made before any server runs: an installation takes all there is of a machine
        try:
            pythons[system.name] = interpreter(system, environments)
        except (EnvironmentFailed, NotInstalled) as error:
            found[system.name] = error
    phases = _PHASES if capacity else _PHASES[:_UNLOADED]
    async with contextlib.AsyncExitStack() as servers:
        runs: dict[str, _Run] = {}
        for system in systems:
            if system.name not in pythons:
                continue
            async with contextlib.AsyncExitStack() as own:
                try:
                    run = await own.enter_async_context(
                        _started(system, pythons[system.name], questions, plan)
                    )
                except (NotStarted, WrongAnswers) as error:
                    found[system.name] = error
                    continue
                if run.figures.idle_share > BUSY_SHARE:
                    for phase in phases:
                        await phase(run, capacity)
                    found[system.name] = run.figures
                else:
                    runs[system.name] = run
                    await servers.enter_async_context(own.pop_all())
        for turn, phase in enumerate(phases):
            for name in rotated(list(runs), number + turn):
                await phase(runs[name], capacity)
    return found | {name: run.figures for name, run in runs.items()}


@contextlib.asynccontextmanager
async def _started(system: System, python: Path, questions: Questions, plan: Plan) -> "AsyncIterator[_Run]":
    asks = system.asks(questions.asks)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        launch = Launch(python, port, Path(folder))
        variables = {"PEERS_MODEL": plan.model, "PEERS_PORT": str(port), "OMP_NUM_THREADS": "1"}
        if system.requirements is not None:
            variables["PYTHONPATH"] = ":".join(map(str, _PATHS))
        variables |= system.variables
        log = Path(folder) / "log"
        async with running(system.command(launch), variables, asks[0], port, log, cores=plan.cores) as server:
            await _check(system, asks, questions, port)
            run = _Run(server, asks, plan)
            await run.warm_up()
            yield run


def interpreter(system: System, environments: Environments) -> Path:
    """What runs a server: a Python of its own, which is made if there is none, or ours."""
    if system.requirements is None:
        return Path(sys.executable)
    return environments.python(system.name.partition("-")[0], system.requirements)


def version(system: System, python: Path) -> str:
    """Of the server's package."""
    command = [str(python), "-c", _VERSION, system.package]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def _check(system: System, asks: Sequence[Ask], questions: Questions, port: int) -> None:
    pool = Pool("127.0.0.1", port)
    for ask, expected in zip(asks, questions.best, strict=True):
        answer = await pool.ask(ask.wire("127.0.0.1", {}), 60.0)
        try:
            found = system.best(json.loads(answer.body))
        except (ValueError, LookupError, TypeError):
            found = ""
        if answer.status != 200 or found != expected:
            raise WrongAnswers(
                f"{system.name}: {answer.status} {answer.body[:200]!r} instead of {expected!r}"
            )
    pool.close()


class _Run:
    def __init__(self, server: Running, asks: Sequence[Ask], plan: Plan) -> None:
        self._server, self._asks, self._plan = server, asks, plan
        self.figures = Figures(start_s=server.start_s)
        self._target = Target(
            host="127.0.0.1",
            port=server.port,
            timeout_s=plan.timeout_s,
            # every server is told; who does not know the header reads over it
            headers={"x-request-timeout-ms": f"{plan.objective_ms:.0f}"},
        )
        self._patient = Target(host="127.0.0.1", port=server.port)

    async def warm_up(self) -> None:
        """And look at what it holds, and at what it does while nobody asks."""
        await closed_loop(self._patient, self._asks, self._plan.clients, self._plan.warm_s)
        await closed_loop(self._patient, self._asks, 1, self._plan.warm_s / 2)
        self.figures.pss_mb = self._server.pss_mb()
        await self._rest()
        before_s = self._server.cpu_s()
        await asyncio.sleep(_IDLE_S)
        self.figures.idle_share = (self._server.cpu_s() - before_s) / _IDLE_S

    async def alone(self, capacity: float) -> None:
        """One caller."""
        waits = _latencies(await closed_loop(self._patient, self._asks, 1, self._plan.seconds))
        self.figures.alone_p50_ms, self.figures.alone_p99_ms = percentile(waits, 50), percentile(waits, 99)

    async def many(self, capacity: float) -> None:
        """As many callers as the plan says."""
        server_s, client_s, start_s = self._server.cpu_s(), time.process_time(), time.perf_counter()
        records = await closed_loop(self._patient, self._asks, self._plan.clients, self._plan.seconds)
        wall_s = time.perf_counter() - start_s
        client_s, server_s = time.process_time() - client_s, self._server.cpu_s() - server_s
        waits = _latencies(records)
        self.figures.many_rate = len(waits) / wall_s
        self.figures.many_p50_ms, self.figures.many_p99_ms = percentile(waits, 50), percentile(waits, 99)
        self.figures.many_failed = len(records) - len(waits)
        self.figures.cpu_ms = 1000 * server_s / len(waits)
        self.figures.client_cpu_ms = 1000 * client_s / len(records)

    async def loaded(self, capacity: float) -> None:
        """Poisson arrivals at a share of the capacity."""
        records = await self._open(self._plan.load * capacity, patient=True)
        waits = _latencies(records)
        self.figures.loaded_p50_ms, self.figures.loaded_p99_ms = percentile(waits, 50), percentile(waits, 99)
        self.figures.loaded_answered = len(waits) / len(records)

    async def overloaded(self, capacity: float) -> None:
        """The next of the plan's overloads."""
        number = len(self.figures.good)
        self.figures.good.append(await self._good(self._plan.overloads[number] * capacity, number))

    async def _open(self, rate: float, *, patient: bool = False, number: int = 0) -> list[Record]:
        due = list(poisson(rate, self._plan.seconds, self._plan.seed + number))
        return await open_loop(self._patient if patient else self._target, self._asks, due)

    async def _good(self, rate: float, number: int) -> float:
        await self._rest()
        skip_s = self._plan.warm_s / 2
        records = await self._open(rate, number=number + 1)
        good = [
            record
            for record in records
            if record.outcome == "ok"
            and record.due_s >= skip_s
            and record.latency_ms <= self._plan.objective_ms
        ]
        return len(good) / (self._plan.seconds - skip_s)

    async def _rest(self) -> None:
        """Until the server has done what is left of the phase before; what its callers gave up on may take long."""
        for _ in range(_MOST_RESTS):
            before_s = self._server.cpu_s()
            await asyncio.sleep(_REST_S)
            if self._server.cpu_s() - before_s < _IDLE_SHARE * _REST_S:
                return


def _latencies(records: Sequence[Record]) -> list[float]:
    return sorted(record.latency_ms for record in records if record.outcome == "ok")


_PHASES = (_Run.alone, _Run.many, _Run.loaded, _Run.overloaded, _Run.overloaded)
_UNLOADED = 2
