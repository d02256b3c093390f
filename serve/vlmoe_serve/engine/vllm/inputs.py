"""Jobs as requests to vLLM, in its finished form: no tokenizer, template or processor of vLLM touches them."""

from collections.abc import Sequence

import torch
from vllm.inputs.engine import EngineInput, mm_input, tokens_input
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)
from vllm.pooling_params import PoolingParams

from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Job
from vlmoe_model.packing import check_job
from vlmoe_serve.engine.vllm.head_pooler import TASK, asked
from vlmoe_serve.engine.vllm.token_ids import TokenIds, normalisation

Request = tuple[EngineInput, PoolingParams]


class Requests:
    """Turns batches of one network's jobs into requests."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._ids = TokenIds.of(config)
        self._places = {head.name: normalisation(config, head.name) for head in config.heads if head.image}
        self._num_batches = 0

    def of(self, jobs: Sequence[Job]) -> list[Request]:
        """One request a job. What several jobs of a batch share, one picture with many texts, vLLM embeds once.

        Raises:
            InputError: an image or a text that its head does not take.
            KeyError: a job names an unknown head.
        """
        for job in jobs:
            check_job(job, self._config)
            _check_parts(job, self._config)
        self._num_batches += 1
        return [self._request(job) for job in jobs]

    def _request(self, job: Job) -> Request:
        image, tokens = job.example.image, job.example.tokens
        num_image, num_text = job.num_tokens(self._config.patch_size)
        grid = None if image is None else image.shape[0] // self._config.patch_size
        ids = self._ids.prompt(tokens, grid)
        params = PoolingParams(task=TASK, extra_kwargs=dict(asked(job.head, num_text, num_image)))
        if image is None:
            return tokens_input(ids), params
        place = self._places[job.head]
        item = MultiModalKwargsItem(
            {
                # a copy: the job's own memory is written over by the next batch
                "pixels": _field(torch.from_numpy(image.copy())),
                "normalisation": _field(torch.tensor(place)),
            }
        )
        # what vLLM may use again is known by where it lay: of this batch alone
        name = f"{self._num_batches}-{image.ctypes.data}-{place}"
        return (
            mm_input(
                ids,
                MultiModalKwargsItems({"image": [item]}),
                {"image": [name]},
                {"image": [PlaceholderRange(offset=num_text, length=num_image)]},
            ),
            params,
        )


def _field(value: torch.Tensor) -> MultiModalFieldElem:
    return MultiModalFieldElem(data=value, field=MultiModalBatchedField())


def _check_parts(job: Job, config: ModelConfig) -> None:
    """What a head would say inside vLLM's worker, where it would end the worker."""
    task = config.head(job.head).task
    has_image, has_text = job.example.image is not None, job.example.tokens is not None
    for is_wrong, what in (
        (task == "vqa" and not (has_image and has_text), "needs an image and a text"),
        (task == "image_classification" and not has_image, "needs an image"),
        (task == "text_classification" and not has_text, "needs a text"),
        (task == "contrastive" and has_image and has_text, "embeds an image or a text, not both at once"),
    ):
        if is_wrong:
            raise InputError(f"head {job.head!r} {what}")
