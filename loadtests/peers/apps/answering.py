"""What all programs here share: from a question to its answer. Nothing of any server.

    image (base64), question --Preparer--> Job --Answerer (batches)--> {"answers": [...]}

Which checkpoint, and where to listen, comes in variables of the environment: servers start processes of their own, and
those inherit them.
"""

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.images import load_image
from vlmoe_model.inputs import Job

MODEL = os.environ.get("PEERS_MODEL", "demo")
HOST = "127.0.0.1"
PORT = int(os.environ.get("PEERS_PORT", "8000"))
HEAD = "vqa"
TOP_K = 5
# of every server that can be told
MAX_BATCH = 32
# how long a server that waits for more waits: the least that all of them take
WINDOW_MS = 1
# requests inside before more are refused, where a server can be told: what is answered in about a quarter of a second
MAX_INSIDE = 48


class Preparer:
    """Decodes pictures and tokenises questions, as our own server's worker threads do. Needs no torch."""

    def __init__(self) -> None:
        directory = open_directory(resolve(MODEL))
        self._processor = directory.processor()
        self._spec = self._processor.image_spec(HEAD)

    def job(self, body: dict[str, Any]) -> Job:
        """A body of `/vqa` as the model takes it."""
        picture = load_image(base64.b64decode(body["image"], validate=True), self._spec)
        return Job(HEAD, self._processor.example(HEAD, image=picture, text=body["question"]))


class Answerer:
    """The model, on one thread, warmed up."""

    def __init__(self) -> None:
        # torch is not imported where only pictures are prepared
        from vlmoe_model.runner import Runner

        self._runner = Runner.load(MODEL, threads=1)
        self._labels = self._runner.directory.labels[HEAD]
        processor = self._runner.directory.processor()
        side = processor.image_spec(HEAD).size
        blank = np.zeros((side, side, 3), np.uint8)
        job = Job(HEAD, processor.example(HEAD, image=blank, text="what is it?"))
        for num in (1, 2, 8, MAX_BATCH, 1):
            self.answers([job] * num)

    def answers(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """One forward pass."""
        return [ranked(logits, self._labels) for logits in self._runner.run(jobs)]


def ranked(logits: npt.NDArray[np.float32], labels: Sequence[str]) -> dict[str, Any]:
    """The best answers and their probabilities, as our server ranks them."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    scores = shifted / shifted.sum()
    order = np.argsort(-scores, kind="stable")[:TOP_K]
    return {"answers": [{"answer": labels[i], "score": float(scores[i])} for i in order]}
