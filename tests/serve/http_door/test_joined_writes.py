import asyncio

from vlmoe_serve.http_door.joined_writes import JoinedWrites


class Transport:
    """What was done to it, in order."""

    def __init__(self):
        self.done = []

    def write(self, data):
        self.done.append(data)

    def close(self):
        self.done.append("closed")

    def is_closing(self):
        return False


def done(*steps):
    async def go():
        transport = Transport()
        joined = JoinedWrites(transport, asyncio.get_running_loop())
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
                transport.done.append("turn")
            elif step == "close":
                joined.close()
            else:
                joined.write(step)
        await asyncio.sleep(0)
        return transport.done

    return asyncio.run(go())


def test_a_head_and_its_body_are_one_write():
    assert done(b"head ", b"body") == [b"head body"]


def test_a_head_without_a_body_leaves_at_the_end_of_the_turn():
    assert done(b"head", None) == [b"head", "turn"]
    assert done(b"head", b"", None) == [b"head", "turn"]


def test_what_is_held_is_sent_before_the_end():
    assert done(b"head", "close") == [b"head", "closed"]


def test_several_answers_keep_their_order():
    assert done(b"1", b"2", b"3", None, b"4", b"5") == [b"12", b"3", "turn", b"45"]


def test_the_rest_is_the_transports():
    async def go():
        return JoinedWrites(Transport(), asyncio.get_running_loop()).is_closing()

    assert asyncio.run(go()) is False


def test_nothing_is_written_to_a_caller_who_has_gone():
    class Gone(Transport):
        def is_closing(self):
            return True

    async def go():
        transport = Gone()
        joined = JoinedWrites(transport, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        joined.close()
        return transport.done

    assert asyncio.run(go()) == ["closed"]
