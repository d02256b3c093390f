from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vlmoe_train.config import load_recipe
from vlmoe_train.model_building import build
from vlmoe_train.tasks.contrastive import ContrastiveTask
from vlmoe_train.trainer import Trainer


@pytest.fixture
def trainer(recipe_file: Path, tmp_path: Path) -> Trainer:
    config = load_recipe(str(recipe_file))
    return Trainer(config, build(config, tmp_path), tmp_path / "run")


def test_prototypes_start_as_the_mean_of_their_drawings(trainer: Trainer):
    task = trainer.setup.tasks[2]
    assert isinstance(task, ContrastiveTask)
    trainer.start()
    rows = np.flatnonzero(task.concepts == 1)
    with torch.no_grad():
        own = trainer._embed([task.run(None, task.images(rows, augment=False))])[0]
    torch.testing.assert_close(task.prototypes[1].detach(), F.normalize(own.sum(0), dim=0))


def test_the_batch_asks_for_each_caption_once(trainer: Trainer):
    task = trainer.setup.tasks[2]
    torch.manual_seed(0)
    batch = task.batch(0, 0)
    assert batch.runs[0].images is not None
    assert batch.runs[0].num_sequences == 7
    texts = [tuple(row.tolist()) for run in batch.runs[1:] if run.tokens is not None for row in run.tokens]
    assert len(set(texts)) == len(texts)
    assert len(texts) <= 3


def test_perfect_embeddings_have_less_loss_than_swapped_ones(trainer: Trainer):
    task = trainer.setup.tasks[2]
    assert isinstance(task, ContrastiveTask)
    torch.manual_seed(0)
    batch = task.batch(0, 0)
    concepts = torch.from_numpy(task.concepts[task.chosen(0, 0)])
    with torch.no_grad():
        task.prototypes.copy_(torch.eye(3, 8))
    perfect = F.one_hot(concepts, 8).float()
    captions = {tuple(task.tokens[c].tolist()): i for i, c in enumerate(task.captions)}
    texts = [
        torch.stack([F.one_hot(torch.tensor(captions[tuple(row.tolist())]), 8).float() for row in run.tokens])
        for run in batch.runs[1:]
        if run.tokens is not None
    ]
    right = batch.loss([perfect, *texts])["loss"]
    wrong = batch.loss([perfect.roll(1, dims=1), *texts])["loss"]
    assert right < 0.01 < wrong
