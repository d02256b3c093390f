"""The heads of a checkpoint as vLLM's pooler: one engine answers every task, each sequence by the head it asks for."""

# T = tokens of the batch, D = dim, N = sequences of one shape, L = tokens of a sequence

from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.pooler import Pooler
from vllm.tasks import PoolingTask
from vllm.v1.pool.metadata import PoolingMetadata

from vlmoe_model.config import ModelConfig
from vlmoe_model.heads import States
from vlmoe_model.packing import SequenceRun

# vLLM's name for a task that is the model's own business
TASK: PoolingTask = "plugin"


class HeadPooler(Pooler):
    """Sequences say in `PoolingParams.extra_kwargs` which head they are for, and of what they consist."""

    def __init__(self, config: ModelConfig, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.config = config
        # known to the model already: not a second time as a module of this one
        self.heads = (heads,)

    def get_supported_tasks(self) -> Set[PoolingTask]:
        """All of ours are one of vLLM's."""
        return {TASK}

    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> list[Tensor]:
        """One float32 vector a sequence."""
        cursor = pooling_metadata.get_pooling_cursor()
        first_of = [0, *cursor.num_scheduled_tokens_cpu.cumsum(0).tolist()]
        alike: dict[tuple[str, int, int], list[int]] = {}
        outputs: dict[int, Tensor] = {}
        for index, params in enumerate(pooling_metadata.pooling_params):
            asked = params.extra_kwargs
            if asked is None:
                # vLLM measures its memory with sequences that nobody asked for
                outputs[index] = hidden_states.new_zeros(1, dtype=torch.float32)
            else:
                key = str(asked["head"]), int(asked["num_text"]), int(asked["num_image"])
                alike.setdefault(key, []).append(index)
        for (head, num_text, num_image), indices in alike.items():
            length = num_text + num_image
            x_NLD = torch.stack([hidden_states[first_of[i] : first_of[i] + length] for i in indices])
            states = self._states(x_NLD, head, num_text, num_image)
            outputs.update(zip(indices, self.heads[0][head](states).float(), strict=True))
        return [outputs[index] for index in range(len(outputs))]

    def _states(self, x_NLD: Tensor, head: str, num_text: int, num_image: int) -> States:
        text_first = self.config.order == "text_first"
        if not text_first:
            # heads look for things where training had them
            x_NLD = torch.cat([x_NLD[:, num_text:], x_NLD[:, :num_text]], dim=1)
        run = SequenceRun(head, len(x_NLD), num_text, num_image, text_first, images=None, tokens=None)
        encoded_NLD, patches = x_NLD[..., : self.config.dim], None
        if x_NLD.shape[-1] > self.config.dim and num_image:
            stem = x_NLD[:, run.image_start :][:, 1:num_image]
            patches = stem[..., self.config.dim :]
        return States(run, encoded_NLD, patches)


def asked(head: str, num_text: int, num_image: int) -> Mapping[str, str | int]:
    """What a sequence says of itself."""
    return {"head": head, "num_text": num_text, "num_image": num_image}
