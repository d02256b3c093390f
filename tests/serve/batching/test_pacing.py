import asyncio

import pytest

from vlmoe_serve.batching.pacing import Pacer
from vlmoe_serve.errors import Overloaded


class Queue:
    """Takes `room` attempts at a time and refuses the others, as the batcher does."""

    def __init__(self, room):
        self.room = room
        self.inside = 0
        self.num_refused = 0

    async def __call__(self):
        if self.inside >= self.room:
            self.num_refused += 1
            raise Overloaded("full")
        self.inside += 1
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            self.inside -= 1
        return "answer"


def test_many_siblings_are_all_answered_through_a_short_queue():
    queue, pacer = Queue(room=3), Pacer()

    async def call():
        return await asyncio.gather(*(pacer.run(queue) for _ in range(100)))

    assert asyncio.run(call()) == ["answer"] * 100
    # once at first, and hardly ever again: each end wakes one
    assert queue.num_refused < 200


def test_without_a_sibling_the_refusal_is_the_callers():
    with pytest.raises(Overloaded):
        asyncio.run(Pacer().run(Queue(room=0)))


def test_all_are_refused_when_the_queue_takes_nothing():
    queue, pacer = Queue(room=0), Pacer()

    async def call():
        return await asyncio.gather(*(pacer.run(queue) for _ in range(5)), return_exceptions=True)

    assert [type(answer) for answer in asyncio.run(call())] == [Overloaded] * 5


def test_a_cancelled_sibling_passes_its_turn_on():
    queue, pacer = Queue(room=1), Pacer()

    async def call():
        tasks = [asyncio.ensure_future(pacer.run(queue)) for _ in range(6)]
        await asyncio.sleep(0)
        for task in tasks[1:4]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(call())
    assert answers[0] == answers[4] == answers[5] == "answer"
    assert [type(answer) for answer in answers[1:4]] == [asyncio.CancelledError] * 3


def test_a_sibling_that_fails_wakes_the_others():
    queue, pacer = Queue(room=1), Pacer()

    async def broken():
        await queue()
        raise ValueError("broken")

    async def call():
        return await asyncio.gather(pacer.run(broken), pacer.run(queue), return_exceptions=True)

    assert [str(answer) for answer in asyncio.run(call())] == ["broken", "answer"]
