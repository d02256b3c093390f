"""The tasks: what a request becomes for a head, and what the head's outputs become for the user.

    request -> model, head -> encode (in a worker thread) -> jobs -> engine -> outputs -> decode -> answer

A new task is one file and one line here.
"""

from typing import Any

from vlmoe_serve.tasks.base import Task
from vlmoe_serve.tasks.classify import Classify
from vlmoe_serve.tasks.embed import Embed
from vlmoe_serve.tasks.explain import ExplainRouting
from vlmoe_serve.tasks.rerank import Rerank
from vlmoe_serve.tasks.retrieve import Retrieve
from vlmoe_serve.tasks.vqa import Vqa

TASKS: dict[str, Task[Any]] = {
    "vqa": Vqa(),
    "classify": Classify(),
    "embed": Embed(),
    "retrieve": Retrieve(),
    "rerank": Rerank(),
    "explain/routing": ExplainRouting(),
}
