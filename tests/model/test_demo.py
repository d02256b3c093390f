"""The checkpoint that ships with the package."""

import json

import numpy as np
import pytest

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

MAX_BYTES = 12 * 2**20


def test_it_is_small_and_whole():
    path = resolve("demo")
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= MAX_BYTES
    directory = open_directory(path)
    assert {head.task for head in directory.config.heads} == {"vqa", "image_classification", "contrastive"}
    assert directory.config.moe_blocks == (1, 3, 5)
    assert directory.base is None
    for word in ("Apache-2.0", "MIT", "CC-BY 4.0", "CC BY-SA 4.0", "vlmoe train", "bad at"):
        assert word.replace("vlmoe train", "vlmoe_train train") in directory.card, word


def test_its_figures_reach_the_floors():
    written = json.loads((resolve("demo") / "metrics.json").read_text(encoding="utf-8"))
    metrics, baselines = written["metrics"], written["baselines"]
    assert metrics["fashion_mnist.accuracy"] >= 0.88
    assert metrics["easy_vqa.accuracy"] >= 0.85
    assert metrics["emoji.i2t_r1"] >= 0.35
    assert metrics["emoji.i2t_r10"] >= 0.70
    kinds = [name for name in metrics if name.startswith("scenes.accuracy")]
    assert len(kinds) >= 8
    for kind in kinds:
        assert metrics[kind] >= baselines[kind] + 0.2, kind


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_it_answers(dtype: str):
    runner = Runner.load("demo", dtype=dtype)
    processor = runner.directory.processor()
    scene = open_image((resolve("demo").parents[2] / "docs/examples/scene.png").read_bytes())
    labels = runner.directory.labels["vqa"]
    questions = {
        "how many bananas are there?": "2",
        "what is in the top left?": "cat",
        "where is the cat?": "top left",
    }
    jobs = [Job("vqa", processor.example("vqa", image=scene, text=question)) for question in questions]
    answers = [labels[int(np.argmax(logits))] for logits in runner.run(jobs)]
    assert answers == list(questions.values())
