"""Models come and go while they are asked."""

import concurrent.futures
import shutil
import threading

import pytest

from ...waiting import wait_until

ADMIN = {"authorization": "Bearer admin-key"}
QUESTION = "is there a red circle"


@pytest.fixture(scope="module")
def root(make_checkpoint, tmp_path_factory):
    """one, two: checkpoints of different weights; copy: one again; broken: no checkpoint."""
    root = tmp_path_factory.mktemp("models")
    one, two = make_checkpoint(1), make_checkpoint(2)
    for name, source in (("one", one), ("two", two), ("copy", one), ("broken", two)):
        shutil.copytree(source, root / name)
    weights = root / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (root / "outside").symlink_to(one)
    (root / "hidden").mkdir()
    for file in one.iterdir():
        (root / "hidden" / file.name).symlink_to(file)
    return root


@pytest.fixture(scope="module")
def running(start, root, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys")
    (keys / "admins").write_text("admin-key\n")
    server = start(
        *("--model", f"main={root / 'one'}", "--model-root", str(root)),
        *("--admin-key-file", str(keys / "admins")),
    )
    yield server
    server.end()


@pytest.fixture(scope="module")
def original(running):
    return main_of(running)


@pytest.fixture
def server(running, original):
    """One model, `main`, of checkpoint one; whatever a test does to it is undone."""
    yield running
    for model in running.client.get("/v1/models").json()["data"]:
        if model["id"] != "main":
            assert unload(running, model["id"]).status_code == 200
    if main_of(running) != original:
        assert load(running, "main", "one", allow_new_space=True).status_code == 200
    wait_for_engines(running, 1)


def load(server, name, path, headers=ADMIN, **fields):
    return server.client.post(f"/v1/models/{name}/load", json={"path": path, **fields}, headers=headers)


def unload(server, name, headers=ADMIN):
    return server.client.post(f"/v1/models/{name}/unload", headers=headers)


def main_of(server):
    return server.client.get("/v1/models/main").json()["model_id"]


def wait_for_engines(server, count):
    wait_until(lambda: len(server.children()) == count)


def error(answer):
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_a_swap_under_load_loses_no_request_and_mixes_no_answer(server, image):
    before = server.client.post("/vqa", json={"image": image, "question": QUESTION})
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(server.client.post("/vqa", json={"image": image, "question": QUESTION}))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        wait_until(lambda: answers)
        swapped = load(server, "main", "two", allow_new_space=True)
        # more than were under way: among them are answers of the new one
        enough = len(answers) + 50
        wait_until(lambda: len(answers) >= enough)
        stop.set()
        for one in asking:
            one.result()
    assert swapped.status_code == 200, swapped.text
    after = server.client.post("/vqa", json={"image": image, "question": QUESTION})
    assert swapped.json()["replaced"] == before.headers["x-model-id"]
    assert swapped.json()["model_id"] == after.headers["x-model-id"]
    assert after.json()["answers"] != before.json()["answers"]
    right = {one.headers["x-model-id"]: one.json() for one in (before, after)}
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json() == right[answer.headers["x-model-id"]] for answer in answers)
    assert {answer.headers["x-model-id"] for answer in answers} == set(right)
    # the old engine leaves, and so do its metrics
    wait_for_engines(server, 1)
    text = server.client.get("/metrics").text
    assert swapped.json()["model_id"] in text
    assert before.headers["x-model-id"] not in text
    assert server.client.get("/readyz").status_code == 200


def test_a_second_model_is_asked_by_its_name(server, image):
    found = load(server, "other", "two").json()
    assert (found["id"], found["replaced"]) == ("other", None)
    assert [report["agreement"] for report in found["canary"]] == [None] * 4
    models = server.client.get("/v1/models").json()["data"]
    assert [(model["id"], model["state"]) for model in models] == [("main", "ready"), ("other", "ready")]
    bodies = [{"image": image, "question": QUESTION, "model": name} for name in ("main", "other")]
    answers = [server.client.post("/vqa", json=body) for body in bodies]
    assert answers[0].json()["answers"] != answers[1].json()["answers"]
    assert answers[1].headers["x-model-id"] == found["model_id"]
    assert server.client.get("/v2/models/other.vqa").status_code == 200
    default = server.client.post("/vqa", json={"image": image, "question": QUESTION})
    assert default.json()["model"] == "main"
    assert unload(server, "other").json() == {
        "id": "other",
        "model_id": found["model_id"],
        "state": "unloaded",
    }
    assert error(server.client.post("/vqa", json=bodies[1])) == (404, "model_not_found", "model")
    assert error(unload(server, "other")) == (404, "model_not_found", "model")
    assert error(unload(server, "main")) == (409, "last_model", None)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("broken", 422, "invalid_checkpoint"),
        ("nothing", 422, "invalid_checkpoint"),
        ("demo", 422, "invalid_checkpoint"),
        ("../..", 403, "forbidden"),
        ("/etc", 403, "forbidden"),
        ("outside", 403, "forbidden"),
        ("hidden", 403, "forbidden"),
        ("a\0b", 422, "invalid_field"),
        ("", 422, "invalid_field"),
    ],
)
def test_a_load_that_fails_changes_nothing(server, path, status, code):
    before = server.client.get("/v1/models").json(), server.children()
    for name in ("main", "new"):
        assert error(load(server, name, path)) == (status, code, "path")
    assert (server.client.get("/v1/models").json(), server.children()) == before
    assert server.client.post("/embed", json={"text": "a"}).status_code == 200


def test_a_canary_holds_back_what_answers_differently(server):
    before = main_of(server)
    assert error(load(server, "main", "two", min_likeness=0.999)) == (409, "canary_differs", "min_likeness")
    assert main_of(server) == before
    wait_for_engines(server, 1)
    same = load(server, "main", "copy", min_likeness=0.999).json()
    assert same["model_id"] == same["replaced"] == before
    likenesses = {
        report["head"]: (report["inputs"], report["agreement"], report["similarity"])
        for report in same["canary"]
    }
    assert likenesses == {
        "questions": (6, 1.0, None),
        "shapes": (6, 1.0, None),
        "entailment": (6, 1.0, None),
        "matching": (12, None, pytest.approx(1.0)),
    }


def test_collections_keep_the_model_that_can_search_them(server):
    client = server.client
    client.put("/collections/kept", json={})
    client.post("/collections/kept/items", json={"items": [{"id": "a", "text": "a sleeping cat"}]})
    refused = load(server, "main", "two")
    assert error(refused) == (409, "space_conflict", "path")
    assert "kept" in refused.json()["error"]["message"]
    query = {"collection": "kept", "text": "a sleeping cat"}
    assert client.post("/retrieve", json=query).json()["hits"][0]["id"] == "a"
    # another served model that can search it is enough
    assert load(server, "second", "copy").status_code == 200
    assert load(server, "main", "two").status_code == 200
    assert client.post("/retrieve", json=query).json()["model"] == "second"
    assert unload(server, "second").status_code == 200
    assert error(client.post("/retrieve", json=query)) == (409, "space_conflict", "collection")
    client.delete("/collections/kept")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "foreign"}, {"authorization": "Basic admin-key"}])
def test_only_admins_may(server, headers):
    for answer in (load(server, "main", "two", headers), unload(server, "main", headers)):
        assert error(answer)[:2] == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_names_and_bodies_are_checked(server):
    assert error(load(server, "a b", "two")) == (422, "invalid_field", "name")
    assert error(load(server, "a", "two", colour=1)) == (422, "invalid_field", "colour")
    assert error(load(server, "a", "two", min_likeness=2)) == (422, "invalid_field", "min_likeness")
    with_key = {"x-api-key": "admin-key"}
    assert error(load(server, "a", "nothing", with_key)) == (422, "invalid_checkpoint", "path")
