"""What every task shares: which rows a step takes, and how rows become runs.

Rows are a pure function of (seed, data set, step): a resumed run continues with exactly the rows it would have had.
"""

# N = samples, S = side, L = text tokens

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import SequenceRun, normalise
from vlmoe_model.tokenizer import Tokenizer
from vlmoe_train.augment import AUGMENTS
from vlmoe_train.config import TaskRecipe
from vlmoe_train.data.samples import Samples

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Runs for one forward pass; `loss` takes their outputs in the same order and returns named losses."""

    runs: tuple[SequenceRun, ...]
    loss: Callable[[Sequence[Tensor]], dict[str, Tensor]]


class Task(nn.Module, ABC):
    """One data set and the head it trains. A module: a task may own parameters that only training needs."""

    def __init__(
        self,
        recipe: TaskRecipe,
        samples: Samples,
        config: ModelConfig,
        tokenizer: Tokenizer,
        labels: Sequence[str],
    ) -> None:
        super().__init__()
        self.recipe, self.samples, self.config = recipe, samples, config
        self.head = config.head(recipe.head)
        # of the rows of a step, those that this process takes
        self.share = slice(None)
        self.tokens = {text: tokenizer.encode(text) for text in sorted(set(samples.texts)) if text}
        for text, ids in self.tokens.items():
            if len(ids) > self.head.max_text:
                raise ValueError(
                    f"{text!r} has {len(ids)} tokens, head {self.head.name!r} takes {self.head.max_text}"
                )
        place = {label: index for index, label in enumerate(labels)}
        # the head's labels may be the union over several data sets
        remap = np.array([place.get(label, -1) for label in samples.labels], dtype=np.int64)
        self.targets: Rows = remap[samples.targets]

    @abstractmethod
    def batch(self, seed: int, step: int) -> Batch:
        """The batch of one step."""

    def prepare(self, embed: Callable[[Sequence[SequenceRun]], list[Tensor]]) -> None:
        """Called once before step 0 with the untrained network."""

    def chosen(self, seed: int, step: int) -> Rows:
        """This worker's rows of one step: walks through a new permutation each epoch."""
        size, batch = len(self.samples), self.recipe.batch
        first = step * batch
        rows: list[Rows] = []
        while batch > 0:
            epoch, place = divmod(first, size)
            name = zlib.crc32(f"{self.recipe.data}/{self.recipe.head}".encode())
            part = np.random.default_rng((seed, name, epoch)).permutation(size)[place : place + batch]
            rows.append(part)
            first, batch = first + len(part), batch - len(part)
        return np.concatenate(rows)[self.share]

    def images(self, rows: Rows, *, augment: bool = True) -> Tensor:
        """float32 [N, 3, S, S] of rows, normalised and augmented."""
        pixels = torch.from_numpy(self.samples.images[self.samples.image_index[rows]])
        images = normalise(pixels, self.config, self.head.name)
        return AUGMENTS[self.recipe.augment](images) if augment else images

    def runs(self, texts: Sequence[str], images: Tensor | None) -> tuple[list[SequenceRun], list[int]]:
        """Group samples by text length; the second value leads from run order back to sample order."""
        members: dict[int, list[int]] = {}
        for index, text in enumerate(texts):
            members.setdefault(len(self.tokens[text]) if text else 0, []).append(index)
        runs, order = [], []
        for length in sorted(members):
            group = members[length]
            ids = np.stack([self.tokens[texts[i]] for i in group]).astype(np.int64) if length else None
            runs.append(
                self.run(
                    None if ids is None else torch.from_numpy(ids), None if images is None else images[group]
                )
            )
            order += group
        return runs, order

    def run(self, tokens: Tensor | None, images: Tensor | None) -> SequenceRun:
        """One run of this task's head."""
        num_image = 0 if images is None else (images.shape[-1] // self.config.patch_size) ** 2 + 1
        return SequenceRun(
            head=self.head.name,
            num_sequences=next(len(t) for t in (tokens, images) if t is not None),
            num_text=0 if tokens is None else tokens.shape[1],
            num_image=num_image,
            text_first=self.config.order == "text_first",
            images=images,
            tokens=tokens,
        )


def in_order(outputs: Iterable[Tensor], order: Sequence[int]) -> Tensor:
    """Outputs of several runs as one tensor in sample order."""
    joined = torch.cat(list(outputs)).float()
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return joined[back]
