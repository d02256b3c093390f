"""Files that may change while the server runs: keys and certificates. Seen within seconds, or at once on SIGHUP.

Polled, because a mounted secret is replaced by moving a link, which watching a file does not see.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmoe_serve.option_sources import UsageError

_log = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """Files that belong together, and what to do when one of them changes; it raises UsageError to keep the old."""

    files: tuple[Path, ...]
    reload: Callable[[], None]


async def watch(watched: Sequence[Watched], hurry: asyncio.Event, *, period_s: float = 5.0) -> None:
    """Until cancelled. `hurry` reloads everything now, changed or not."""
    stamps = [_stamp(one.files) for one in watched]
    while True:
        try:
            async with asyncio.timeout(period_s):
                await hurry.wait()
        except TimeoutError:
            pass
        forced = hurry.is_set()
        hurry.clear()
        for position, one in enumerate(watched):
            stamp = _stamp(one.files)
            if forced or stamp != stamps[position]:
                stamps[position] = stamp
                _reload(one)


def _reload(one: Watched) -> None:
    try:
        one.reload()
    except UsageError as error:
        _log.error("kept what was read before: %s", error)


def _stamp(files: tuple[Path, ...]) -> _Stamp:
    return tuple(map(_stamp_of, files))


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
