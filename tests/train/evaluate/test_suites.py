import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmoe_model.runner import Runner
from vlmoe_train.data.scene_language import KINDS
from vlmoe_train.evaluate.suites import SUITES, Request, Score, jsonl


def scores_of(runner: Runner, root: Path, dataset: str, head: str, **changes: object) -> dict[str, Score]:
    fields = {"options": {}, "limit": None, **changes}
    request = Request(runner=runner, head=runner.config.head(head), root=root, progress=int, **fields)
    suite = SUITES.get(dataset) or jsonl(dataset)
    return {score.name: score for score in suite(request)}


def test_fashion_mnist_beside_its_largest_class(runner: Runner, data_root: Path) -> None:
    (score,) = scores_of(runner, data_root, "fashion_mnist", "fashion").values()
    assert score.name == "fashion_mnist.accuracy"
    assert score.baseline == 0.1


def test_easy_vqa_beside_the_question_lookup(runner: Runner, data_root: Path) -> None:
    scores = scores_of(runner, data_root, "easy_vqa", "vqa")
    kinds = ("color", "shape", "yes-no")
    assert list(scores) == ["easy_vqa.accuracy", *(f"easy_vqa.accuracy.{kind}" for kind in kinds)]
    assert scores["easy_vqa.accuracy.shape"].baseline == 1
    assert scores["easy_vqa.accuracy.color"].baseline == 0.5


def test_scenes_by_kind_and_style(runner: Runner, data_root: Path) -> None:
    scores = scores_of(runner, data_root, "scenes", "vqa", options={"num_train": 200}, limit=120)
    wanted = [
        name
        for metric in ("scenes.accuracy", "scenes.accuracy_unseen")
        for name in (metric, *(f"{metric}.{kind}" for kind in sorted(KINDS)))
    ]
    assert list(scores) == wanted
    assert scores["scenes.accuracy"].baseline < 0.4


def test_an_untrained_model_is_near_chance_and_the_baseline_is_not(runner: Runner, data_root: Path) -> None:
    scores = scores_of(runner, data_root, "emoji", "retrieval")
    assert list(scores) == [f"emoji.{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert scores["emoji.i2t_r1"].value < 0.2
    # the tiny drawings have the same colours in every style
    assert scores["emoji.i2t_r1"].baseline > 0.3
    assert scores["emoji.i2t_r1"].value <= scores["emoji.i2t_r5"].value <= scores["emoji.i2t_r10"].value


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for number in range(4):
        pixels = np.full((8, 8, 3), number * 60, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for split in ("train", "test"):
        rows = [{"image": f"{n}.png", "question": "what is there ?", "answer": "red"} for n in range(4)]
        (tmp_path / f"ask-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        rows = [{"image": f"{n}.png", "caption": f"{'red ' * n}dog"} for n in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_questions_of_ones_own(runner: Runner, own: Path) -> None:
    scores = scores_of(runner, own, "ask-{split}.jsonl", "vqa")
    assert list(scores) == ["ask.accuracy"]
    assert scores["ask.accuracy"].baseline == 1


def test_captions_of_ones_own_beside_chance(runner: Runner, own: Path) -> None:
    scores = scores_of(runner, own.parent, f"{own.name}/{{split}}.jsonl", "retrieval")
    assert [score.baseline for score in scores.values()] == [0.25, 1, 1] * 2
    assert next(iter(scores)) == f"{own.name}.i2t_r1"
    assert scores[f"{own.name}.i2t_r5"].value == 1
