"""One task: rows of a data set to runs of sequences, and the network's outputs to a loss.

TASKS is the table: which class trains a head of which kind.
"""

from collections.abc import Mapping

from vlmoe_train.tasks.base import Batch, Task
from vlmoe_train.tasks.contrastive import ContrastiveTask
from vlmoe_train.tasks.labelled import LabelledTask

TASKS: Mapping[str, type[Task]] = {
    "vqa": LabelledTask,
    "image_classification": LabelledTask,
    "text_classification": LabelledTask,
    "contrastive": ContrastiveTask,
}

__all__ = ["TASKS", "Batch", "Task"]
