import asyncio
import gc
import threading
import time
import weakref

import pytest

from vlmoe_serve.encoding.encode import EncodePool
from vlmoe_serve.errors import DeadlineExceeded

from ..waiting import PATIENCE_S


@pytest.fixture
def pool():
    pool = EncodePool(2)
    yield pool
    pool.close()


def test_work_leaves_the_loops_thread_and_fails_as_itself(pool):
    async def check():
        assert await pool.run(threading.current_thread, None) is not threading.main_thread()
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0, None)

    asyncio.run(check())


def test_it_grows_and_never_shrinks(pool):
    barrier = threading.Barrier(4, timeout=PATIENCE_S)

    async def check():
        pool.grow(4)
        pool.grow(1)
        # nobody passes before four have come
        assert len(set(await asyncio.gather(*(pool.run(barrier.wait, None) for _ in range(4))))) == 4

    asyncio.run(check())


def test_no_more_than_its_threads_run_at_once_and_the_wait_is_known(pool):
    gate, running = threading.Event(), []

    def work():
        running.append(1)
        gate.wait()

    async def check():
        assert pool.wait_ms == 0
        tasks = [asyncio.ensure_future(pool.run(work, None)) for _ in range(6)]
        while len(running) < 2:
            await asyncio.sleep(0.001)
        # a third, if there were one, would begin about now
        await asyncio.sleep(0.05)
        assert len(running) == 2
        assert pool.wait_ms > 0
        gate.set()
        await asyncio.gather(*tasks)
        assert pool.wait_ms == 0

    asyncio.run(check())


def test_expired_and_cancelled_work_never_starts(pool):
    gate, done = threading.Event(), []

    async def check():
        busy = [asyncio.ensure_future(pool.run(gate.wait, None)) for _ in range(2)]
        late = asyncio.ensure_future(pool.run(lambda: done.append("late"), time.monotonic()))
        gone = asyncio.ensure_future(pool.run(lambda: done.append("gone"), None))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*busy)
        with pytest.raises(DeadlineExceeded):
            await late
        await pool.run(lambda: done.append("last"), None)

    asyncio.run(check())
    assert done == ["last"]


def test_what_fails_is_let_go_without_the_collector(pool):
    """A request may be tens of megabytes, and the collector rests."""

    class Picture:
        pass

    def failing(picture):
        raise ValueError(f"{picture} is none")

    async def check():
        picture = Picture()
        gone = weakref.ref(picture)
        try:
            await pool.run(lambda picture=picture: failing(picture), None)
        except ValueError:
            del picture
        # the thread lets go of it a moment after it has told the loop
        while gone() is not None:
            await asyncio.sleep(0.001)

    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(check(), PATIENCE_S))
    finally:
        gc.enable()


def test_closing_ends_the_threads_and_drops_what_waits():
    pool, begun, gate, done = EncodePool(1), threading.Event(), threading.Event(), []

    def first():
        begun.set()
        gate.wait()
        return "first"

    async def check():
        busy = asyncio.ensure_future(pool.run(first, None))
        waiting = asyncio.ensure_future(pool.run(lambda: done.append("waiting"), None))
        await asyncio.to_thread(begun.wait)
        closing = asyncio.ensure_future(asyncio.to_thread(pool.close))
        while not pool.closed:
            await asyncio.sleep(0.001)
        gate.set()
        assert await busy == "first"
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await closing

    asyncio.run(check())
    assert done == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]
