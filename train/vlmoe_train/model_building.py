"""From a recipe and its data to a network with tokenizer, heads and tasks."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vlmoe_model.config import ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import Tokenizer, train_wordpiece
from vlmoe_train.config import TrainConfig
from vlmoe_train.data.samples import Samples
from vlmoe_train.datasets import load_samples
from vlmoe_train.tasks import TASKS, Task


@dataclass(frozen=True, slots=True, eq=False)
class Setup:
    """All that the loop needs. labels: per head, the names of its outputs (empty for a contrastive head)."""

    network: VLMoE
    tokenizer: Tokenizer
    labels: dict[str, tuple[str, ...]]
    tasks: tuple[Task, ...]


def build(config: TrainConfig, data: Path) -> Setup:
    """Load the data, train the tokenizer on its texts, and make the network from the seed.

    Raises:
        DataError: a data set was not fetched, or is damaged.
        ValueError: the recipe does not fit its data.
    """
    heads = {head.name: head for head in config.heads}
    samples: list[Samples] = []
    for task in config.tasks:
        spec = heads[task.head].image
        samples.append(load_samples(task.data, data, "train", spec, **task.options))
    labels: dict[str, tuple[str, ...]] = {}
    for head in config.heads:
        of_head = [s for s, task in zip(samples, config.tasks, strict=True) if task.head == head.name]
        # the union over data sets, in order of first appearance
        labels[head.name] = tuple(dict.fromkeys(label for s in of_head for label in s.labels))
    # captions are texts too: those of a contrastive head need not all stand in train
    texts = {t for s in samples for t in s.texts if t}
    texts.update(label for head in config.heads if head.task == "contrastive" for label in labels[head.name])
    tokenizer = train_wordpiece(sorted(texts), config.model.vocab_size)
    model = _with_heads(config, labels, tokenizer)
    torch.manual_seed(config.seed)
    network = VLMoE(model)
    tasks = tuple(
        TASKS[model.head(recipe.head).task](recipe, s, model, tokenizer, labels[recipe.head])
        for recipe, s in zip(config.tasks, samples, strict=True)
    )
    for head in config.heads:
        if head.task == "contrastive":
            labels[head.name] = ()
    return Setup(network, tokenizer, labels, tasks)


def _with_heads(config: TrainConfig, labels: dict[str, tuple[str, ...]], tokenizer: Tokenizer) -> ModelConfig:
    built = tuple(head.build(len(labels[head.name])) for head in config.heads)
    return replace(config.model, vocab_size=max(1, tokenizer.vocab_size), heads=built)
