"""MLServer: requests come as tensors of the Open Inference Protocol; batches run in its one worker process."""

import json

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from peers.apps.answering import Answerer, Preparer


class Vqa(MLModel):
    """The model."""

    async def load(self) -> bool:
        """Load, in the worker."""
        self.preparer, self.answerer = Preparer(), Answerer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One batch: the server has put the tensors of its requests together."""
        columns = {each.name: StringCodec.decode_input(each) for each in payload.inputs}
        jobs = [
            self.preparer.job({"image": image, "question": question})
            for image, question in zip(columns["image"], columns["question"], strict=True)
        ]
        found = [json.dumps(answer) for answer in self.answerer.answers(jobs)]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("answers", found, use_bytes=True)]
        )
