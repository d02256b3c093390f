"""A server's processes: started, counted, ended. Linux only: it reads /proc."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmoe_loadtests.mixes import Ask
from vlmoe_loadtests.wire import Answer, Pool

_POLL_S = 0.02
_END_S = 10.0
_ORPHANS_S = 0.5
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class NotStarted(RuntimeError):
    """A server does not come up, with the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. start_s: from its start to its first right answer."""

    pid: int
    mark: str
    port: int
    start_s: float
    first: Answer

    def cpu_s(self) -> float:
        """Processor time of all its processes so far, in seconds."""
        return sum(map(_cpu_s, family(self.pid, self.mark)))

    def pss_mb(self) -> float:
        """Memory of all its processes, shared pages counted in parts."""
        return sum(map(_pss_mb, family(self.pid, self.mark)))


def family(leader: int, mark: str) -> set[int]:
    """The processes of a server: of its session, with its mark in their environment, and the children of all these.

    Some servers start daemons in sessions of their own, and some rename processes, which overwrites the environment.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            parents[pid] = int(fields[1])
            if int(fields[3]) == leader or mark.encode() in (folder / "environ").read_bytes():
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def free_port() -> int:
    """A port that nobody listens on, with a free one above it."""
    while True:
        with socket.socket() as one, socket.socket() as above:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError, OverflowError):
                above.bind(("127.0.0.1", port + 1))
                return port


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str],
    variables: Mapping[str, str],
    ask: Ask,
    port: int,
    log: Path,
    timeout_s: float = 120.0,
    cores: Collection[int] = (),
) -> AsyncIterator[Running]:
    """Start a server in a session of its own, wait until it answers with 200, and end all its processes.

    It runs on `cores`, or where we do.

    Raises:
        NotStarted: it ends, or does not answer in time.
    """
    mark = f"peers-{uuid.uuid4().hex}"
    start_s = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables, "PEERS_MARK": mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(os.sched_setaffinity, 0, cores) if cores else None,
        )
    try:
        pool = Pool("127.0.0.1", port)
        wire = ask.wire("127.0.0.1", {})
        while True:
            with contextlib.suppress(OSError):
                first = await pool.ask(wire, timeout_s)
                if first.status == 200:
                    break
            if process.poll() is not None or time.perf_counter() - start_s > timeout_s:
                raise NotStarted(f"{command[0]}: {log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(_POLL_S)
        pool.close()
        yield Running(process.pid, mark, port, time.perf_counter() - start_s, first)
    finally:
        _end(process, mark)


def _end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    # some leave orphans behind
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = family(process.pid, mark)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(_ORPHANS_S if left else 0.0)
    process.wait()


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S
    return 0.0


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0
