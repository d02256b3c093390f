"""A base and its deltas, served by one process."""

import shutil

import numpy as np
import pytest

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

QUESTION = "is there a red circle"


@pytest.fixture(scope="module")
def family(checkpoint, make_checkpoint, tmp_path_factory):
    """name -> path: the base, two deltas with frozen experts, and a stranger."""
    folder = tmp_path_factory.mktemp("family")
    # a delta finds a base that lies beside it
    base = shutil.copytree(checkpoint, folder / "base")
    directory = open_directory(base)
    state = load_state(base)
    paths = {"base": base}
    for number in (1, 2):
        changed = {
            name: tensor if name.startswith("encoder.blocks.1.ffn.") else tensor + 0.05 * number
            for name, tensor in state.items()
        }
        paths[f"delta-{number}"] = folder / f"delta-{number}"
        save_delta(
            folder / f"delta-{number}",
            base,
            directory.config,
            changed,
            directory.tokenizer(),
            directory.labels,
        )
    return {**paths, "stranger": make_checkpoint(9)}


def test_each_answers_as_if_it_were_alone_and_they_live_in_one_process(family, start, png, image):
    server = start(*(part for name, path in family.items() for part in ("--model", f"{name}={path}")))
    assert len(server.children()) == 2
    models = {model["id"]: model for model in server.client.get("/v1/models").json()["data"]}
    assert list(models) == list(family)
    assert len({model["model_id"] for model in models.values()}) == 4
    for name, path in family.items():
        runner = Runner.load(path, dtype="fp32", threads=1)
        processor = open_directory(path).processor()
        example = processor.example("questions", image=open_image(png()), text=QUESTION)
        logits = runner.run([Job("questions", example)])[0]
        found = server.client.post(
            "/vqa", json={"model": name, "image": image, "question": QUESTION, "top_k": 9}
        )
        probabilities = np.exp(logits) / np.exp(logits).sum()
        scores = {one["answer"]: one["score"] for one in found.json()["answers"]}
        assert [scores[label] for label in ("yes", "no", "circle", "square")] == pytest.approx(
            list(probabilities), abs=1e-5
        )
        assert found.headers["x-model-id"] == models[name]["model_id"]
    # several of them in one batch
    inputs = [{"model": name, "text": "a cat"} for name in family for _ in range(8)]
    together = server.client.post("/embed", json={"inputs": inputs}).json()["results"]
    for position, body in enumerate(inputs):
        alone = server.client.post("/embed", json=body).json()
        assert together[position] == alone
    assert server.end() == 0
