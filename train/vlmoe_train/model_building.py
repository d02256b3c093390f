"""From a recipe and its data to a network with tokenizer, heads and tasks."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vlmoe_model.checkpoint.directory import CheckpointDir, open_directory, resolve
from vlmoe_model.checkpoint.weights import load_state
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
        CheckpointError: the base is broken.
        ValueError: the recipe does not fit its data.
    """
    if config.model.expert_weights != "float":
        raise ValueError("int8 experts cannot be trained: take the checkpoint that they were made from")
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
    base = open_directory(resolve(config.base)) if config.base else None
    tokenizer = base.tokenizer() if base else train_wordpiece(sorted(texts), config.model.vocab_size)
    built = tuple(head.build(len(labels[head.name])) for head in config.heads)
    vocab_size = config.model.vocab_size if base else tokenizer.vocab_size
    model = replace(config.model, vocab_size=vocab_size, heads=built)
    torch.manual_seed(config.seed)
    network = VLMoE(model)
    if base:
        _start_from(network, base, labels)
    tasks = tuple(
        TASKS[model.head(recipe.head).task](recipe, s, model, tokenizer, labels[recipe.head])
        for recipe, s in zip(config.tasks, samples, strict=True)
    )
    for head in config.heads:
        if head.task == "contrastive":
            labels[head.name] = ()
    return Setup(network, tokenizer, labels, tasks)


def _start_from(network: VLMoE, base: CheckpointDir, labels: dict[str, tuple[str, ...]]) -> None:
    """Take the encoder's weights, and those of every head that stayed what it was."""
    kept = {
        head.name
        for head in network.config.heads
        if head in base.config.heads
        and (head.task == "contrastive" or labels[head.name] == base.labels[head.name])
    }
    own = network.state_dict()
    state = {
        name: tensor.float()
        for name, tensor in load_state(base).items()
        if not name.startswith("heads.") or name.split(".")[1] in kept
    }
    network.load_state_dict(own | state)
