"""LitServe: requests are decoded and answered in its worker process, bodies are parsed in its front."""

from collections.abc import Sequence
from typing import Any

import litserve

from peers.apps.answering import HOST, MAX_BATCH, PORT, WINDOW_MS, Answerer, Preparer
from vlmoe_model.inputs import Job


class Vqa(litserve.LitAPI):
    """The model behind LitServe's hooks."""

    def setup(self, device: str) -> None:
        """Load, once a worker."""
        self.preparer, self.answerer = Preparer(), Answerer()

    def decode_request(self, request: dict[str, Any]) -> Job:
        """One body."""
        return self.preparer.job(request)

    def batch(self, inputs: Sequence[Job]) -> Sequence[Job]:
        """Jobs are packed by the model itself."""
        return inputs

    def predict(self, inputs: Sequence[Job]) -> list[dict[str, Any]]:
        """One batch."""
        return self.answerer.answers(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer a job."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As JSON."""
        return output


if __name__ == "__main__":
    api = Vqa(max_batch_size=MAX_BATCH, batch_timeout=WINDOW_MS / 1000, api_path="/vqa")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=30, fast_queue=True)
    server.run(
        host=HOST,
        port=PORT,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
