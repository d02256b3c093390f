import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmoe_model.inputs import Job
from vlmoe_serve.engine.failures import BatchFailed, EngineDied, EngineDown, EngineStartError
from vlmoe_serve.engine.protocol import BatchDone
from vlmoe_serve.engine.recovery import GroupDone, run_groups
from vlmoe_serve.engine.supervisor import Supervisor, SupervisorOptions

from ..waiting import PATIENCE_S, named_memory

EXIT, HANG, RAISE, WAIT_ONCE, HOLD, BREAK = range(1001, 1007)
QUICK = SupervisorOptions(max_pause_s=0.2)

Make = Callable[..., Job]
Answers = Callable[[Sequence[Job]], list[list[float]]]


def outputs(done: BatchDone) -> list[list[float]]:
    return [np.frombuffer(block, np.float32).tolist() for block in done.outputs]


def with_supervisor(
    supervisor: Supervisor,
    use: Callable[[Supervisor], Coroutine[Any, Any, None]],
    *,
    leaves_process: bool = False,
) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await supervisor.start()
            pid = supervisor.pid
            assert pid is not None
            try:
                await use(supervisor)
            finally:
                pid = supervisor.pid or pid
                await supervisor.stop()
            assert not Path(f"/proc/{pid}").exists(), "the process outlived its supervisor"

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def persistent(supervisor: Supervisor, job: Job) -> BatchDone:
    """Asked for as long as a crowded machine takes longer over it than what counts as a hang."""
    while True:
        try:
            return await supervisor.run([job])
        except EngineDied:
            continue


def test_batches_are_answered_in_order_and_side_by_side(toy: Any, job: Make, answers: Answers) -> None:
    batches = [
        [job(number, length=2 + number % 5, size=None if number % 3 else 4)] * 3 for number in range(20)
    ]

    async def use(supervisor: Supervisor) -> None:
        dones = await asyncio.gather(*(supervisor.run(jobs) for jobs in batches))
        assert [outputs(done) for done in dones] == [answers(jobs) for jobs in batches]
        assert supervisor.ready
        assert supervisor.num_restarts == 0

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_info_tells_what_the_engine_said_and_how_fast_it_was(toy: Any) -> None:
    async def use(supervisor: Supervisor) -> None:
        assert supervisor.info.model_id == "m-toy"
        assert [sample.work.tokens for sample in supervisor.info.samples] == [2, 4, 8]
        assert all(sample.ms > 0 for sample in supervisor.info.samples)
        assert supervisor.info.load_s > 0

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("missing", "missing: no such checkpoint"),
        ("exit-while-loading", "the engine process exited with code 4 while loading"),
        ("bug-while-loading", "AttributeError: no such thing"),
    ],
)
def test_an_engine_that_cannot_load_says_why_in_one_line(
    toy: Any, tmp_path: Path, trouble: str, reason: str
) -> None:
    directory = tmp_path / trouble
    if trouble != "missing":
        directory = tmp_path
        (directory / trouble).touch()
    options = type(toy.options)(directory)
    with pytest.raises(EngineStartError) as error:
        asyncio.run(Supervisor(toy.factory, options, QUICK).start())
    assert str(error.value).endswith(reason)
    assert "\n" not in str(error.value)


def test_an_engine_that_speaks_something_else_while_it_loads_is_an_error_of_the_start_and_no_other(
    toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (toy.directory / "garbage-while-loading").touch()
    with pytest.raises(EngineStartError, match="sent what we do not understand: UnpicklingError"):
        asyncio.run(Supervisor(toy.factory, toy.options, QUICK).start())
    # where asyncio would say that an error was never retrieved
    gc.collect()
    assert not caplog.records


def test_an_unknown_factory_is_an_error_of_the_start(toy: Any) -> None:
    with pytest.raises(EngineStartError, match="no_such_module"):
        asyncio.run(Supervisor("no_such_module:load", toy.options, QUICK).start())


def test_an_engine_that_never_gets_ready_is_given_up(toy: Any) -> None:
    (toy.directory / "hang-while-loading").touch()
    options = SupervisorOptions(start_timeout_s=0.5)
    with pytest.raises(EngineStartError, match=r"not ready after 0\.5 s"):
        asyncio.run(Supervisor(toy.factory, toy.options, options).start())


def test_killed_in_the_middle_of_a_batch_it_comes_back(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        task = asyncio.create_task(supervisor.run([job(WAIT_ONCE)]))
        mark = toy.directory / "waiting"
        await until(mark.exists)
        behind = asyncio.create_task(supervisor.run([job(5)]))
        await asyncio.sleep(0)
        os.kill(int(mark.read_text()), signal.SIGKILL)
        with pytest.raises(EngineDied, match="killed by SIGKILL") as death:
            await task
        assert death.value.suspect
        with pytest.raises(EngineDied) as death:
            await behind
        assert not death.value.suspect
        assert outputs(await supervisor.run([job(WAIT_ONCE)])) == answers([job(WAIT_ONCE)])
        assert supervisor.num_restarts == 1

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_a_batch_that_meets_a_process_that_just_ended_waits_for_the_next(
    toy: Any, job: Make, answers: Answers
) -> None:
    """The socket has ended, and the supervisor has not had its turn: it must get one, whatever is tried again."""

    async def use(supervisor: Supervisor) -> None:
        num_asked = 0

        def wanted(index: int) -> bool:
            nonlocal num_asked
            num_asked += 1
            assert num_asked < 1000, "the loop has no turn in which the supervisor could see what happened"
            return True

        assert supervisor.pid is not None
        assert supervisor._child is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        # what the loop does first when a socket ends
        supervisor._child._link.connection_lost(None)
        (done,) = await run_groups(supervisor, [(job(5),)], wanted)
        assert isinstance(done, GroupDone)
        assert [output.tolist() for output in done.outputs] == answers([job(5)])
        assert supervisor.num_restarts == 1

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_a_hang_is_ended_by_the_watchdog(toy: Any, job: Make, answers: Answers) -> None:
    restarts: list[str] = []

    async def use(supervisor: Supervisor) -> None:
        with pytest.raises(EngineDied, match="gave no answer for 1 s"):
            await supervisor.run([job(HANG)])
        assert outputs(await persistent(supervisor, job(5))) == answers([job(5)])
        assert set(restarts) == {"gave no answer for 1 s and was killed"}

    options = SupervisorOptions(hang_s=1.0, max_pause_s=0.2)
    with_supervisor(Supervisor(toy.factory, toy.options, options, restarts.append), use)


def test_an_idle_engine_that_hangs_is_found_and_replaced(toy: Any, job: Make, answers: Answers) -> None:
    restarts: list[str] = []

    async def use(supervisor: Supervisor) -> None:
        frozen = supervisor.pid
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        await until(lambda: supervisor.busy_s > 0)
        # one that was sent to the frozen process behind the ping is not suspected of anything
        behind = asyncio.create_task(supervisor.run([job(5)]))
        await until(lambda: not supervisor.ready)
        with pytest.raises(EngineDied) as death:
            await behind
        assert not death.value.suspect
        assert outputs(await persistent(supervisor, job(5))) == answers([job(5)])
        assert supervisor.pid != frozen
        assert set(restarts) == {"gave no answer for 1 s and was killed"}

    options = SupervisorOptions(hang_s=1.0, ping_s=0.1, max_pause_s=0.2)
    with_supervisor(Supervisor(toy.factory, toy.options, options, restarts.append), use)


def test_an_idle_engine_that_answers_pings_is_left_alone(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        for _ in range(5):
            await asyncio.sleep(0.1)
            assert outputs(await supervisor.run([job(5)])) == answers([job(5)])
        assert supervisor.num_restarts == 0

    options = SupervisorOptions(hang_s=30.0, ping_s=0.02, max_pause_s=0.2)
    with_supervisor(Supervisor(toy.factory, toy.options, options), use)


def test_a_batch_that_raises_leaves_the_engine_alive(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        with pytest.raises(BatchFailed, match="KeyError: 'no such head'"):
            await supervisor.run([job(5), job(RAISE)])
        assert outputs(await supervisor.run([job(5)])) == answers([job(5)])
        assert supervisor.num_restarts == 0

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_an_engine_that_lost_its_device_is_replaced(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        with pytest.raises(EngineDied, match="exited with code 1"):
            await supervisor.run([job(5), job(BREAK)])
        assert outputs(await supervisor.run([job(5)])) == answers([job(5)])
        assert supervisor.num_restarts == 1

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_interrupts_are_the_fronts_business(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        assert supervisor.pid is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(supervisor.pid, number)
        assert outputs(await supervisor.run([job(5)])) == answers([job(5)])
        assert supervisor.num_restarts == 0

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_a_caller_that_leaves_does_not_disturb_the_next(toy: Any, job: Make, answers: Answers) -> None:
    async def use(supervisor: Supervisor) -> None:
        leaving = [asyncio.create_task(supervisor.run([job(HOLD)])) for _ in range(4)]
        await until(lambda: supervisor.busy_s > 0)
        for task in leaving:
            task.cancel()
        toy.release()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert outputs(await supervisor.run([job(7)])) == answers([job(7)])

    with_supervisor(Supervisor(toy.factory, toy.options, QUICK), use)


def test_an_engine_that_cannot_come_back_is_reported_down_and_returns_when_it_can(
    toy: Any, job: Make, answers: Answers
) -> None:
    async def use(supervisor: Supervisor) -> None:
        (toy.directory / "exit-while-loading").touch()
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: not supervisor.alive)
        with pytest.raises(EngineDown, match=r"down for 0\.5 s"):
            await supervisor.run([job(5)])
        assert not supervisor.ready
        (toy.directory / "exit-while-loading").unlink()
        await until(lambda: supervisor.alive)
        assert outputs(await supervisor.run([job(5)])) == answers([job(5)])

    options = SupervisorOptions(max_down_s=0.5, max_pause_s=0.2)
    with_supervisor(Supervisor(toy.factory, toy.options, options), use)


def test_stopping_fails_what_is_in_flight_and_leaves_nothing(toy: Any, job: Make) -> None:
    named = named_memory()

    async def main() -> None:
        supervisor = Supervisor(toy.factory, toy.options, QUICK)
        await supervisor.start()
        pid = supervisor.pid
        task = asyncio.create_task(supervisor.run([job(HANG)]))
        await until(lambda: supervisor.busy_s > 0)
        assert pid is not None
        assert not named_memory(pid)
        await supervisor.stop()
        with pytest.raises(EngineDied):
            await task
        with pytest.raises(EngineDown, match="stopped"):
            await supervisor.run([job(5)])
        assert not Path(f"/proc/{pid}").exists()

    before = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - before < PATIENCE_S
    assert named_memory() <= named


@pytest.mark.parametrize("name", ["hang_s", "ping_s", "start_timeout_s", "max_down_s", "max_pause_s"])
def test_options_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        SupervisorOptions(**{name: 0.0})
