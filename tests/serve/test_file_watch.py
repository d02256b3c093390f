import asyncio

import pytest

from vlmoe_serve.file_watch import Watched, watch
from vlmoe_serve.option_sources import UsageError

from .waiting import PATIENCE_S


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


def watching(file, reload, act, period_s):
    """Run `act` while the file is watched."""

    async def both():
        hurry = asyncio.Event()
        task = asyncio.create_task(watch([Watched((file,), reload)], hurry, period_s=period_s))
        try:
            await asyncio.sleep(0.02)
            await act(hurry)
        finally:
            task.cancel()
            await asyncio.wait((task,))

    asyncio.run(both())


def test_a_change_is_seen_and_an_unchanged_file_is_left_alone(file):
    seen = []

    async def act(hurry):
        await asyncio.sleep(0.05)
        assert seen == []
        file.write_text("three")
        await until(lambda: seen == ["three"])
        replacement = file.with_name("new")
        replacement.write_text("three")
        # what Kubernetes does with a mounted secret: same content or not, another file
        replacement.replace(file)
        await until(lambda: len(seen) == 2)

    watching(file, lambda: seen.append(file.read_text()), act, 0.005)


def test_in_a_hurry_everything_is_read_again(file):
    seen = []

    async def act(hurry):
        hurry.set()
        await until(lambda: seen == [1])
        assert not hurry.is_set()

    watching(file, lambda: seen.append(1), act, 1000.0)


def test_a_file_that_is_no_good_is_logged_and_watched_on(file, caplog):
    seen = []

    def reload():
        if file.read_text() == "bad":
            raise UsageError("it is bad")
        seen.append(file.read_text())

    async def act(hurry):
        file.write_text("bad")
        await until(lambda: "it is bad" in caplog.text)
        file.unlink()
        file.write_text("good again")
        await until(lambda: seen == ["good again"])

    watching(file, reload, act, 0.005)
