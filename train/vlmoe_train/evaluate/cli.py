"""`vlmoe eval`: a checkpoint's figures on a recipe's test data, as a table and as JSON."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmoe_model.arguments import Parser
from vlmoe_model.config import HeadConfig, ModelConfig, Task
from vlmoe_model.errors import ModelError
from vlmoe_model.routing_mode import OVERFLOWS, RoutingMode
from vlmoe_model.runner import Runner
from vlmoe_train.config import RecipeError, load_recipe
from vlmoe_train.data.samples import DataError
from vlmoe_train.evaluate.suites import SUITES, Request, Score, Suite, jsonl

# data set -> task of its head, and that head's name where a checkpoint has several of the task
_HEADS: dict[str, tuple[Task, str]] = {
    "fashion_mnist": ("image_classification", "fashion"),
    "easy_vqa": ("vqa", "vqa"),
    "scenes": ("vqa", "vqa"),
    "emoji": ("contrastive", "retrieval"),
}


def run(argv: list[str]) -> int:
    """Exit status: 0 done, 1 the evaluation failed, 2 bad usage."""
    arguments = _parser().parse_args(argv)
    if arguments.limit is not None and arguments.limit < 1:
        print(f"vlmoe eval: --limit must be positive, got {arguments.limit}", file=sys.stderr)
        return 2
    try:
        runner = Runner.load(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            threads=arguments.threads,
            mode=RoutingMode(arguments.capacity, arguments.overflow, arguments.experts_per_token),
        )
        plan = evaluation_plan(arguments.recipe, runner.config)
        scores = _evaluate(plan, runner, arguments.data, arguments.limit)
        print(to_table(scores))
        if arguments.json is not None:
            arguments.json.write_text(to_json(scores), encoding="utf-8")
    except (ModelError, DataError, RecipeError, ValueError, KeyError, OSError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        print(f"vlmoe eval: {reason}", file=sys.stderr)
        return 2 if isinstance(error, RecipeError) else 1
    if arguments.limit is not None:
        print(f"on at most {arguments.limit} test rows: recall is easier among fewer candidates")
    return 0


@dataclass(frozen=True, slots=True)
class Planned:
    """One data set to evaluate: how, with which head, and the options of its loader."""

    suite: Suite
    head: HeadConfig
    options: Mapping[str, Any]


def evaluation_plan(recipe: str, config: ModelConfig) -> list[Planned]:
    """What to evaluate with which head: one data set by its name, or every data set of a recipe.

    Raises:
        RecipeError: no such recipe.
        ValueError: the model has no head for a data set, or a recipe's file has no test split.
        KeyError: the model lacks a head that the recipe names.
    """
    if recipe in SUITES:
        return [Planned(SUITES[recipe], _head_for(recipe, config), {})]
    plan = []
    for task in load_recipe(recipe).tasks:
        if task.data not in SUITES and "{split}" not in task.data:
            raise ValueError(f"{task.data} has no test split; name the file with {{split}} in it")
        suite = SUITES.get(task.data) or jsonl(task.data)
        plan.append(Planned(suite, config.head(task.head), task.options))
    return plan


def to_table(scores: Sequence[Score]) -> str:
    """The scores in per cent, one a line."""
    width = max(len(score.name) for score in scores)
    lines = [f"{'metric':<{width}}  model %  baseline %"]
    lines += [
        f"{s.name:<{width}}  {100 * s.value:7.2f}  {100 * s.baseline:10.2f}  {s.against}" for s in scores
    ]
    return "\n".join(lines)


def to_json(scores: Sequence[Score]) -> str:
    """The scores in 0..1 as `{"metrics": {name: value}, "baselines": {name: value}}`."""
    values = {
        "metrics": {score.name: score.value for score in scores},
        "baselines": {score.name: score.baseline for score in scores},
    }
    return json.dumps(values, indent=2) + "\n"


def _evaluate(plan: Sequence[Planned], runner: Runner, root: Path, limit: int | None) -> list[Score]:
    scores = []
    with tqdm(unit=" samples", file=sys.stderr, disable=None) as bar:
        for part in plan:
            request = Request(runner, part.head, root, part.options, limit, bar.update)
            scores += part.suite(request)
    return scores


def _head_for(dataset: str, config: ModelConfig) -> HeadConfig:
    task, name = _HEADS[dataset]
    fitting = {head.name: head for head in config.heads if head.task == task}
    if name in fitting:
        return fitting[name]
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    heads = ", ".join(f"{head.name} ({head.task})" for head in config.heads) or "none"
    raise ValueError(f"{dataset} needs one {task} head, or one named {name!r}; the model's heads: {heads}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="vlmoe eval", description="Test figures of a checkpoint.")
    parser.add_argument("--model", required=True, metavar="PATH", help="checkpoint directory, or demo")
    parser.add_argument("--recipe", required=True, help=f"recipe, .yaml file, or one of {', '.join(SUITES)}")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), metavar="DIR", help="data directory (data)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N test rows of each data set")
    parser.add_argument(
        "--capacity", type=float, metavar="FACTOR", help="as of vlmoe serve: slots of an expert"
    )
    parser.add_argument("--overflow", choices=OVERFLOWS, default="priority", help="as of vlmoe serve")
    parser.add_argument("--experts-per-token", type=int, metavar="N", help="as of vlmoe serve")
    parser.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "int8"))
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    return parser
