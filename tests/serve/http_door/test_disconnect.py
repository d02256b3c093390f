import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from vlmoe_serve.http_door.disconnect import DEPARTURE, Departure, unless_disconnected


class Line(Departure):
    """A caller's connection."""

    def hang_up(self):
        self.happened()

    def request(self):
        return Request({"type": "http", DEPARTURE: self})


def test_the_result_comes_back():
    async def go():
        async def work():
            await asyncio.sleep(0)
            return 42

        return await unless_disconnected(Line().request(), work())

    assert asyncio.run(go()) == 42


def test_an_error_comes_back():
    async def go():
        async def work():
            raise KeyError("x")

        await unless_disconnected(Line().request(), work())

    with pytest.raises(KeyError):
        asyncio.run(go())


def test_work_is_cancelled_when_the_caller_goes_and_its_cleanup_is_awaited():
    async def go():
        line, seen = Line(), []

        async def work():
            try:
                asyncio.get_running_loop().call_soon(line.hang_up)
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                seen.append("cleaned")

        with pytest.raises(ClientDisconnect):
            await unless_disconnected(line.request(), work())
        # the task itself is not cancelled any more: what comes next may wait
        await asyncio.sleep(0)
        return seen, asyncio.current_task().cancelling()

    assert asyncio.run(go()) == (["cleaned"], 0)


def test_who_is_cancelled_by_others_stays_cancelled():
    async def go():
        line = Line()

        async def work():
            await asyncio.Event().wait()

        task = asyncio.ensure_future(unless_disconnected(line.request(), work()))
        await asyncio.sleep(0)
        task.cancel()
        line.hang_up()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())


def test_a_caller_that_goes_after_the_answer_disturbs_nobody():
    async def go():
        line = Line()

        async def work():
            return "answer"

        found = await unless_disconnected(line.request(), work())
        line.hang_up()
        for _ in range(3):
            await asyncio.sleep(0)
        return found, asyncio.current_task().cancelling()

    assert asyncio.run(go()) == ("answer", 0)


def test_work_for_a_caller_that_has_left_before_is_cancelled():
    async def go():
        line = Line()
        line.hang_up()
        with pytest.raises(ClientDisconnect):
            await unless_disconnected(line.request(), asyncio.Event().wait())

    asyncio.run(go())


def test_a_connection_serves_one_request_after_the_other():
    async def go():
        line, cancelled = Line(), []

        async def work():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        await unless_disconnected(line.request(), asyncio.sleep(0))
        second = asyncio.ensure_future(unless_disconnected(line.request(), work()))
        await asyncio.sleep(0)
        line.hang_up()
        with pytest.raises(ClientDisconnect):
            await second
        return cancelled

    assert asyncio.run(go()) == [True]
