"""The generator against small servers whose answers are known."""

import asyncio
from collections.abc import Awaitable, Callable

from vlmoe_loadtests.generator import Target, closed_loop, open_loop
from vlmoe_loadtests.mixes import Ask

ASKS = [Ask("one", "/one", b"{}"), Ask("two", "/two", b"[1]", 2)]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-queue-ms: 1.25\r\nX-Batch-Tokens: 64\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def measured(answer, run):
    """The records of `run(target)` against a server that sends what `answer(path)` says; None hangs up."""
    seen = []

    async def handle(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                seen.append((path, await reader.readexactly(length)))
                said = answer(path)
                if said is None:
                    return
                writer.write(said)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()[:2]
            return await run(Target(host=host, port=port, timeout_s=120.0))

    return asyncio.run(main()), seen


def test_an_open_loop_sends_each_request_in_its_turn() -> None:
    records, seen = measured(lambda path: OK, lambda target: open_loop(target, ASKS, [0.0, 0.01, 0.02]))
    assert sorted(seen) == [("/one", b"{}"), ("/one", b"{}"), ("/two", b"[1]")]
    assert [(one.kind, one.num_inputs, one.due_s, one.outcome) for one in records] == [
        ("one", 1, 0.0, "ok"),
        ("two", 2, 0.01, "ok"),
        ("one", 1, 0.02, "ok"),
    ]
    assert all((one.queue_ms, one.batch_tokens) == (1.25, 64) for one in records)
    assert all(one.due_s <= one.sent_s < one.done_s for one in records)


def test_every_failure_has_a_class() -> None:
    answers = {"/one": BUSY, "/two": None}
    records, _ = measured(answers.get, lambda target: open_loop(target, ASKS, [0.0, 0.0]))
    assert [one.outcome for one in records] == ["429", "connection"]
    records, _ = measured(lambda path: b"garbage\r\n\r\n", lambda target: open_loop(target, ASKS, [0.0]))
    assert [one.outcome for one in records] == ["connection"]


def test_a_caller_gives_up_after_the_timeout() -> None:
    def impatient(target: Target) -> Awaitable[list]:
        return open_loop(Target(host=target.host, port=target.port, timeout_s=0.05), ASKS, [0.0])

    records, _ = measured(lambda path: b"", impatient)
    assert [one.outcome for one in records] == ["timeout"]


def test_a_server_that_is_not_there_is_a_failed_connection() -> None:
    async def main() -> list:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        server.close()
        await server.wait_closed()
        return await open_loop(Target(host=host, port=port), ASKS, [0.0])

    assert [one.outcome for one in asyncio.run(main())] == ["connection"]


def test_a_closed_loop_keeps_so_many_requests_under_way() -> None:
    inside, most = 0, 0

    def answer(path: str) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        inside -= 1
        return OK

    run: Callable[[Target], Awaitable[list]] = lambda target: closed_loop(target, ASKS, 3, 1.0)  # noqa: E731
    records, seen = measured(answer, run)
    assert len(records) == len(seen) >= 3
    assert {one.outcome for one in records} == {"ok"}
    assert [one.due_s for one in records] == sorted(one.due_s for one in records)
