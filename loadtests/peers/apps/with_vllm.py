"""vLLM's asynchronous engine behind FastAPI, with our network as a model of it; vLLM makes the batches.

Its own server takes no request that is a picture and a question for a classifier, so the front is the bare one.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic_core import from_json, to_json

from peers.apps.answering import HOST, MAX_BATCH, MAX_INSIDE, MODEL, PORT, Preparer, ranked
from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.vllm import settings


def make_app() -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from vlmoe_serve.engine.vllm.inputs import Requests
        from vlmoe_serve.engine.vllm.plugin import register

        register()
        directory = open_directory(resolve(MODEL))
        options = EngineOptions(directory.path, settings=(("max_num_seqs", str(MAX_BATCH)),))
        arguments = settings.engine_args(options, directory.config, "cpu", "fp32")
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        preparer, requests, labels = Preparer(), Requests(directory.config), directory.labels["vqa"]
        loop = asyncio.get_running_loop()
        num = 0

        async def answer(body: bytes) -> dict[str, Any]:
            nonlocal num
            job = await loop.run_in_executor(threads, lambda: preparer.job(from_json(body)))
            num += 1
            ((prompt, params),) = requests.of([job])
            async for output in llm.encode(prompt, params, str(num)):
                found = ranked(output.outputs.data.numpy(), labels)
            return found

        app.state.answer = answer
        with ThreadPoolExecutor(1) as threads:
            yield
        llm.shutdown()

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
        finally:
            inside -= 1
        return Response(to_json(found), media_type="application/json")

    return app


if __name__ == "__main__":
    # before the first import of vLLM, which reads them; its processes import this file and must not
    os.environ.update(settings.environment(threads=1))
    uvicorn.run(make_app(), host=HOST, port=PORT, access_log=False, log_level="warning")
