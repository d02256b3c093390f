"""Ask a model about samples: answers as text, or embeddings, batch by batch."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from vlmoe_model.inputs import Example, Job
from vlmoe_model.runner import Runner
from vlmoe_train.data.samples import Samples

# called with the number of jobs that were answered
Progress = Callable[[int], object]

_BATCH = 128


def answers(runner: Runner, head: str, samples: Samples, progress: Progress) -> list[str]:
    """The model's answer to each row, chosen among all labels of the head."""
    labels = runner.directory.labels[head]
    return [labels[int(logits.argmax())] for logits in _run(runner, _jobs(runner, head, samples), progress)]


def embed_images(runner: Runner, head: str, samples: Samples, progress: Progress) -> npt.NDArray[np.float64]:
    """float64 [N, width]: the embedding of each row's image."""
    jobs = [Job(head, Example(image=samples.images[place])) for place in samples.image_index]
    return np.stack(list(_run(runner, jobs, progress))).astype(np.float64)


def embed_texts(
    runner: Runner, head: str, texts: Sequence[str], progress: Progress
) -> npt.NDArray[np.float64]:
    """float64 [N, width]: the embedding of each text."""
    processor = runner.directory.processor()
    jobs = [Job(head, Example(tokens=processor.text(head, text))) for text in texts]
    return np.stack(list(_run(runner, jobs, progress))).astype(np.float64)


def _jobs(runner: Runner, head: str, samples: Samples) -> list[Job]:
    processor = runner.directory.processor()
    tokens = {text: processor.text(head, text) for text in dict.fromkeys(samples.texts) if text}
    return [
        Job(head, Example(image=samples.images[place] if place >= 0 else None, tokens=tokens.get(text)))
        for place, text in zip(samples.image_index, samples.texts, strict=True)
    ]


def _run(runner: Runner, jobs: Sequence[Job], progress: Progress) -> Iterator[npt.NDArray[np.float32]]:
    for first in range(0, len(jobs), _BATCH):
        batch = jobs[first : first + _BATCH]
        yield from runner.run(batch)
        progress(len(batch))
