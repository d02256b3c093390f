from typing import get_args

from vlmoe_model.config import Task
from vlmoe_model.heads import HEADS


def test_every_task_has_a_head() -> None:
    assert set(get_args(Task)) == set(HEADS)
