import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from vlmoe_serve.http_door.disconnect import unless_disconnected


class Line:
    """A caller's connection, after the body."""

    def __init__(self):
        self._gone = asyncio.Event()

    def hang_up(self):
        self._gone.set()

    async def receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}

    def request(self):
        return Request({"type": "http"}, self.receive)


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
            line.hang_up()
            await asyncio.sleep(0)
            return "answer"

        try:
            found = await unless_disconnected(line.request(), work())
        except ClientDisconnect:
            found = "left"
        for _ in range(3):
            await asyncio.sleep(0)
        return found

    assert asyncio.run(go()) in ("answer", "left")
