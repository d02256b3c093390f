from pathlib import Path

import numpy as np
import pytest
import torch

from vlmoe_train.config import load_recipe
from vlmoe_train.model_building import build
from vlmoe_train.tasks import Task
from vlmoe_train.tasks.base import in_order


@pytest.fixture
def task(recipe_file: Path, tmp_path: Path) -> Task:
    return build(load_recipe(str(recipe_file)), tmp_path).tasks[1]


def test_an_epoch_takes_every_row_once(task: Task):
    # 48 rows, 6 a step: 8 steps an epoch
    epoch = np.concatenate([task.chosen(0, step) for step in range(8)])
    assert sorted(epoch) == list(range(48))
    following = np.concatenate([task.chosen(0, step) for step in range(8, 16)])
    assert sorted(following) == list(range(48))
    assert not np.array_equal(epoch, following)


def test_rows_follow_from_seed_and_step_alone(task: Task):
    assert np.array_equal(task.chosen(5, 11), task.chosen(5, 11))
    assert not np.array_equal(task.chosen(5, 11), task.chosen(6, 11))


def test_a_batch_that_crosses_epochs_is_whole(recipe_file: Path, tmp_path: Path):
    captions = build(load_recipe(str(recipe_file)), tmp_path).tasks[2]
    # 7 a step over 48 rows: step 6 takes the last 6 of the first epoch and 1 of the second
    rows = np.concatenate([captions.chosen(0, step) for step in range(7)])
    assert len(rows) == 49
    assert sorted(rows[:48]) == list(range(48))


def test_runs_hold_equal_lengths_and_lead_back(task: Task):
    texts = [task.samples.texts[i] for i in range(6)]
    runs, order = task.runs(texts, task.images(np.arange(6), augment=False))
    assert sorted(order) == list(range(6))
    assert len(runs) == len({len(task.tokens[text]) for text in texts})
    for run in runs:
        assert run.tokens is not None
        assert run.images is not None
        assert run.tokens.shape == (run.num_sequences, run.num_text)
        assert run.num_image == 2 * 2 + 1
    flat = in_order([torch.tensor([[float(i)] for i in order])], list(range(6)))
    assert in_order([flat], order)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
