"""BentoML: one worker; its dispatcher learns how long batches take and refuses what it could not answer in time."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bentoml
from pydantic import BaseModel

from peers.apps.answering import MAX_BATCH, MAX_INSIDE, Answerer, Preparer

# the objective that goodput is counted by
_MAX_LATENCY_MS = 250


class Question(BaseModel):
    """One body."""

    image: str
    question: str


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": MAX_INSIDE})
class Vqa:
    """The service."""

    def __init__(self) -> None:
        self.preparer, self.answerer = Preparer(), Answerer()
        self.decoding = ThreadPoolExecutor(2)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=_MAX_LATENCY_MS, route="/vqa")
    def vqa(self, questions: list[Question]) -> list[dict[str, Any]]:
        """One batch; pictures are decoded two at a time."""
        bodies = [{"image": one.image, "question": one.question} for one in questions]
        return self.answerer.answers(list(self.decoding.map(self.preparer.job, bodies)))
