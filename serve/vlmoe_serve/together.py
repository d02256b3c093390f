"""Several pieces of one call's work, side by side."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order. When one fails, or the caller is cancelled, nothing of the rest keeps running."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # taken out, and under no name of their own: a failed task holds its error, and the error this frame
        while tasks:
            tasks.pop().cancel()
