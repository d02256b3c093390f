"""A base and its deltas, served by one process."""

import concurrent.futures
import os
import shutil
import signal
import threading

import numpy as np
import pytest

from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import load_state
from vlmoe_model.images import open_image
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner

from ..waiting import wait_until

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


@pytest.fixture
def loading(family, start, tmp_path):
    """A server of the base, and load(name, path)."""
    (tmp_path / "admins").write_text("admin-key\n")
    folder = family["base"].parent
    server = start(
        *("--model", f"base={family['base']}", "--model-root", str(folder)),
        *("--admin-key-file", str(tmp_path / "admins")),
    )

    def load(name, path):
        return server.client.post(
            f"/v1/models/{name}/load", json={"path": path}, headers={"authorization": "Bearer admin-key"}
        )

    yield server, load
    assert server.end() == 0
    assert not server.tracebacks


def test_one_that_is_loaded_joins_its_relatives_and_nobody_notices(loading, image):
    server, load = loading
    question = {"image": image, "question": QUESTION, "top_k": 4}
    before = server.client.post("/vqa", json=question).json()
    ended = threading.Event()

    def keep_asking():
        answers = []
        while not ended.is_set():
            answers.append(server.client.post("/vqa", json={"model": "base", **question}))
        return answers

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(keep_asking) for _ in range(2)]
        try:
            first, second = load("one", "delta-1"), load("two", "delta-2")
        finally:
            ended.set()
        answers = [answer for each in asking for answer in each.result()]
    assert (first.status_code, second.status_code) == (200, 200)
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json() == before for answer in answers)
    # what answered before has left
    wait_until(lambda: len(server.children()) == 1)
    models = server.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["base", "one", "two"]
    for name in ("one", "two"):
        found = server.client.post("/vqa", json={"model": name, **question})
        assert found.headers["x-model-id"] == {model["id"]: model["model_id"] for model in models}[name]
        assert found.json()["answers"] != before["answers"]
    # the same weights under another name, and a swap inside the family
    assert load("two", "delta-1").json()["replaced"] == second.json()["model_id"]
    wait_until(lambda: len(server.children()) == 1)
    assert server.client.post("/vqa", json={"model": "base", **question}).json() == before


def test_one_that_was_unloaded_is_needed_no_more(loading, family, image):
    server, load = loading
    folder = family["base"].parent
    shutil.copytree(folder / "delta-1", folder / "passing")
    assert load("one", "passing").status_code == 200
    assert load("two", "delta-2").status_code == 200
    wait_until(lambda: len(server.children()) == 1)

    def ask(name):
        return server.client.post("/vqa", json={"model": name, "image": image, "question": QUESTION})

    before = {name: ask(name).json() for name in ("base", "two")}
    found = server.client.post("/v1/models/one/unload", headers={"authorization": "Bearer admin-key"})
    assert found.status_code == 200
    shutil.rmtree(folder / "passing")
    assert {name: ask(name).json() for name in before} == before
    # the engine's next life does without it, too
    (engine,) = server.children()
    os.kill(engine, signal.SIGKILL)
    assert {name: ask(name).json() for name in before} == before
    assert ask("one").status_code == 404


def test_one_whose_relatives_have_changed_on_disk_is_not_loaded(loading, family, image):
    server, load = loading
    folder = family["base"].parent
    shutil.copytree(folder / "delta-1", folder / "changing")
    assert load("one", "changing").status_code == 200
    # an undisturbed engine serves what it has read
    shutil.rmtree(folder / "changing")
    shutil.copytree(folder / "delta-2", folder / "changing")
    before = server.client.get("/v1/models").json()
    found = load("two", "delta-2")
    assert (found.status_code, found.json()["error"]["code"]) == (409, "relative_changed")
    assert server.client.get("/v1/models").json() == before
    wait_until(lambda: len(server.children()) == 1)
    for name in ("base", "one"):
        body = {"model": name, "image": image, "question": QUESTION}
        assert server.client.post("/vqa", json=body).status_code == 200
