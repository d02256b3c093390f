"""Ray Serve: its proxy hands requests to one replica, which decodes in a thread and answers in batches."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from peers.apps.answering import HOST, MAX_BATCH, MAX_INSIDE, PORT, WINDOW_MS, Answerer, Preparer
from vlmoe_model.inputs import Job


class Vqa:
    """The replica."""

    def __init__(self) -> None:
        self.preparer, self.answerer = Preparer(), Answerer()
        self.decoding, self.running = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One request."""
        body = await request.json()
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(self.decoding, self.preparer.job, body)
        found: dict[str, Any] = await self.answer(job)
        return found

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WINDOW_MS / 1000)
    async def answer(self, jobs: list[Job]) -> list[dict[str, Any]]:
        """One batch, beside the loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.running, self.answerer.answers, jobs)


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    serve.start(http_options={"host": HOST, "port": PORT})
    deployment = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=MAX_INSIDE,
        max_queued_requests=MAX_BATCH,
        ray_actor_options={"num_cpus": 1},
    )(Vqa)
    serve.run(deployment.bind(), name="vqa", route_prefix="/vqa")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
