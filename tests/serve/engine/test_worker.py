import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from ..waiting import PATIENCE_S, is_gone, named_memory, wait_until

FRONT = """
import asyncio, sys
from pathlib import Path
import numpy as np
from vlmoe_model.inputs import Example, Job
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.supervisor import Supervisor

async def main():
    supervisor = Supervisor("toy_engine:load", EngineOptions(Path(sys.argv[1])))
    await supervisor.start()
    if sys.argv[2:]:
        task = asyncio.create_task(supervisor.run([Job("toy", Example(tokens=np.array([int(sys.argv[2])], np.int32)))]))
        while not supervisor.busy_s:
            await asyncio.sleep(0.01)
    print(supervisor.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
HANG = "1002"


def start_front(toy: Any, *arguments: str) -> tuple["subprocess.Popen[str]", int]:
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT, str(toy.directory), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert front.stdout is not None
    return front, int(front.stdout.readline())


def end(front: "subprocess.Popen[str]") -> None:
    front.kill()
    front.wait()
    assert front.stdout is not None
    front.stdout.close()


@pytest.mark.parametrize("arguments", [(), (HANG,)], ids=["idle", "busy"])
def test_the_engine_dies_with_its_front(toy: Any, arguments: tuple[str, ...]) -> None:
    front, pid = start_front(toy, *arguments)
    assert not is_gone(pid)
    # what has no name is gone with the last who holds it
    assert not named_memory(pid) | named_memory(front.pid)
    end(front)
    wait_until(lambda: is_gone(pid), "the engine process outlived its front")


def test_a_worker_whose_socket_ends_leaves_at_once(toy: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-m", "vlmoe_serve.engine.worker", str(os.getpid()), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
    assert worker.wait(timeout=PATIENCE_S) == 0


def test_a_worker_that_is_not_its_parents_child_any_more_leaves(toy: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-m", "vlmoe_serve.engine.worker", "-1", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        assert worker.wait(timeout=PATIENCE_S) == 0
