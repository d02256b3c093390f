import asyncio
import gc
import weakref

import pytest

from vlmoe_serve.together import together


async def succeeding(value):
    await asyncio.sleep(0)
    return value


async def failing(held):
    await asyncio.sleep(0)
    raise ValueError(f"{held} is none")


def test_results_come_in_order():
    async def check():
        assert await together([succeeding(1), succeeding(2), succeeding(3)]) == [1, 2, 3]

    asyncio.run(check())


def test_when_one_fails_nothing_of_the_rest_keeps_running():
    async def check():
        ended = []

        async def long():
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("long")

        with pytest.raises(ValueError, match="this is none"):
            await together([long(), failing("this"), long()])
        await asyncio.sleep(0)
        assert ended == ["long", "long"]

    asyncio.run(check())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_fails_is_let_go_without_the_collector(place):
    """A request may be tens of megabytes, and the collector rests."""

    class Picture:
        pass

    async def check():
        picture = Picture()
        gone = weakref.ref(picture)
        works = [succeeding(1), succeeding(2)]
        works.insert(place, failing(picture))
        try:
            await together(works)
        except ValueError:
            del picture
        # tasks are told of their end in the loop's next turns
        for _ in range(10):
            await asyncio.sleep(0)
        assert gone() is None

    gc.disable()
    try:
        asyncio.run(check())
    finally:
        gc.enable()
