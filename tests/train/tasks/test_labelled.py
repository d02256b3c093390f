from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vlmoe_train.config import load_recipe
from vlmoe_train.model_building import build


@pytest.mark.parametrize("index", [0, 1])
def test_loss_and_accuracy_follow_the_targets_through_the_runs(recipe_file: Path, tmp_path: Path, index: int):
    task = build(load_recipe(str(recipe_file)), tmp_path).tasks[index]
    batch = task.batch(0, 0)
    targets = torch.from_numpy(task.targets[task.chosen(0, 0)])
    texts = [task.samples.texts[row] for row in task.chosen(0, 0)]
    _, order = task.runs(texts, None) if texts[0] else (None, list(range(len(targets))))
    logits = 30.0 * F.one_hot(targets, 3).float()
    in_run_order = logits[order]
    values = batch.loss(list(in_run_order.split([run.num_sequences for run in batch.runs])))
    assert values["accuracy"] == 1.0
    assert values["loss"] < 1e-3


def test_a_head_that_serves_several_data_sets_has_the_union_of_their_labels(
    recipe_file: Path, tmp_path: Path
):
    config = load_recipe(str(recipe_file))
    task = build(config, tmp_path).tasks[1]
    assert task.targets.max() < 3
    other = type(task)(
        task.recipe, task.samples, task.config, build(config, tmp_path).tokenizer, ("blue", "x", "red")
    )
    assert [("blue", "x", "red")[t] for t in other.targets if t >= 0] == [
        task.samples.labels[t] for t in task.samples.targets if task.samples.labels[t] != "green"
    ]
