"""FastAPI and uvicorn with batching by hand; `thread` or `process` says where the model runs.

More requests inside than are answered in time are refused with 503, before their bodies are parsed.
"""

import asyncio
import multiprocessing
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json, to_json

from peers.apps.answering import HOST, MAX_INSIDE, PORT, Answerer, Preparer
from peers.apps.batching import Batches
from vlmoe_model.inputs import Job

_answerer: Answerer


def load() -> None:
    """Before the first batch, where the model runs."""
    global _answerer
    _answerer = Answerer()


def run(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """One batch, there."""
    return _answerer.answers(jobs)


def executor(where: str) -> Executor:
    """One thread or one process, with the model loaded."""
    if where == "thread":
        return ThreadPoolExecutor(1, initializer=load)
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=load)


def make_app(where: str) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with executor(where) as model, ThreadPoolExecutor(1) as threads:
            # the first call waits for the model
            await loop.run_in_executor(model, len, ())
            preparer = Preparer()
            batches = Batches(lambda jobs: loop.run_in_executor(model, run, jobs))

            async def answer(body: bytes) -> dict[str, Any]:
                job = await loop.run_in_executor(threads, lambda: preparer.job(from_json(body)))
                return await batches.answer(job)

            app.state.answer = answer
            yield

    app = FastAPI(lifespan=lifespan)
    inside = 0

    @app.post("/vqa")
    async def vqa(request: Request) -> Response:
        nonlocal inside
        if inside >= MAX_INSIDE:
            return Response(status_code=503)
        inside += 1
        try:
            found = await request.app.state.answer(await request.body())
        except ValueError as error:
            return Response(to_json({"error": str(error)}), 400, media_type="application/json")
        finally:
            inside -= 1
        return Response(to_json(found), media_type="application/json")

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[1]), host=HOST, port=PORT, access_log=False, log_level="warning")
