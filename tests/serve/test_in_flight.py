import asyncio

import pytest

from vlmoe_serve.in_flight import InFlight


def test_it_ends_when_the_last_one_does():
    async def check():
        in_flight = InFlight()
        assert await in_flight.ended(0.01)
        with in_flight.one():
            assert in_flight.num == 1
            with pytest.raises(ZeroDivisionError), in_flight.one():
                raise ZeroDivisionError
            assert not await in_flight.ended(0.01)
            waiting = asyncio.ensure_future(in_flight.ended(10))
            await asyncio.sleep(0)
        assert await waiting
        assert in_flight.num == 0

    asyncio.run(check())
