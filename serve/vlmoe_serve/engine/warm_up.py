"""The jobs that every engine runs before it counts as ready."""

from collections.abc import Sequence

import numpy as np

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.inputs import Example, Job

# [T_CLS] and [T_SEP] of every tokenizer; between them any id does.
_CLS, _UNKNOWN, _SEP = 2, 1, 3
_WARM_UP_TEXT = 16


def warm_up_batches(config: ModelConfig) -> Sequence[Sequence[Job]]:
    """Every head once; then the shortest and the longest job, alone and several times.

    What a batch costs apart from its tokens, and what attention costs, shows only where lengths differ; what another of
    the longest adds, only in a batch of two, which comes early: on a slow machine the last ones are left out.
    """
    jobs = [job for head in config.heads for job in _blank_jobs(head)]
    short, *_, long = sorted([*jobs, *jobs], key=lambda job: sum(job.num_tokens(config.patch_size)))
    return jobs, [short], [long], [long] * 2, [short] * 16, [long] * 4, jobs * 4


def _blank_jobs(head: HeadConfig) -> list[Job]:
    image = None if head.image is None else np.zeros((head.image.size, head.image.size, 3), np.uint8)
    length = min(head.max_text, _WARM_UP_TEXT)
    tokens = None
    if length >= 2:
        tokens = np.array([_CLS, *[_UNKNOWN] * (length - 2), _SEP], np.int32)
    if head.task == "contrastive":
        return [Job(head.name, Example(image=image)), Job(head.name, Example(tokens=tokens))]
    if head.task == "image_classification":
        tokens = None
    elif head.task == "text_classification":
        image = None
    return [Job(head.name, Example(image=image, tokens=tokens))]
