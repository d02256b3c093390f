"""Mosec: one process decodes, the next answers in batches; the front is its own, in Rust."""

from typing import Any

from mosec import Server, ValidationError, Worker

from peers.apps.answering import MAX_BATCH, WINDOW_MS, Answerer, Preparer
from vlmoe_model.inputs import Job


class Prepare(Worker):
    """The first stage."""

    def __init__(self) -> None:
        super().__init__()
        self.preparer = Preparer()

    def forward(self, data: dict[str, Any]) -> Job:
        """One body."""
        try:
            return self.preparer.job(data)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class Answer(Worker):
    """The second stage."""

    def __init__(self) -> None:
        super().__init__()
        self.answerer = Answerer()

    def forward(self, data: list[Job]) -> list[dict[str, Any]]:
        """One batch."""
        return self.answerer.answers(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Prepare, num=1, route="/vqa")
    server.append_worker(
        Answer, num=1, max_batch_size=MAX_BATCH, max_wait_time=WINDOW_MS, timeout=30, route="/vqa"
    )
    server.run()
