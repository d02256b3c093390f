"""Every method of both clients against a real socket; the tests run once blocking and once under asyncio."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from vlmoe_client import (
    Answer,
    AsyncClient,
    Client,
    Collection,
    Hit,
    Item,
    ItemError,
    Label,
    Model,
    NotFound,
    RoutedToken,
    Timings,
    Unprocessable,
    Usage,
)


def test_vqa(do, server, png, digest_of):
    result = do("vqa", png, "what is this?")
    assert result.best == Answer(digest_of(png), 0.75)
    assert result.answers[1] == Answer("what is this?", 0.25)
    assert result.model == "demo"
    assert result.usage == Usage(image_tokens=49, text_tokens=6)
    assert result.timings == Timings(encode_ms=1.5, queue_ms=0.25, forward_ms=8.0, batch_tokens=55)
    assert server.seen[0].body.keys() == {"image", "question"}


def test_vqa_sends_what_it_is_given(do, server, png):
    result = do("vqa", png, "why?", top_k=1, model="big", priority="batch", request_id="r-7")
    assert len(result.answers) == 1
    assert result.model == "big"
    assert result.request_id == "r-7"
    seen = server.seen[0]
    assert seen.headers["x-priority"] == "batch"
    assert seen.headers["x-request-id"] == "r-7"
    assert 0 < int(seen.headers["x-request-timeout-ms"]) <= 120_000
    assert seen.headers["content-type"] == "application/json"


def test_vqa_many_gives_errors_as_values_in_order(do, png, digest_of):
    first, second, third = do("vqa_many", [(png, "a"), (png, ""), (png, "c")], top_k=2)
    assert first.answers[1].answer == "a"
    assert second == ItemError("invalid_field", "question must not be empty", "question")
    assert third.best.answer == digest_of(png)


def test_many_of_none_sends_nothing(do, server):
    assert do("vqa_many", []) == []
    assert server.seen == []


def test_many_inputs_travel_in_several_requests(do, server):
    results = do("embed_many", texts=(f"text {place}" for place in range(300)), model="big")
    assert len(results) == 300
    assert [len(seen.body["inputs"]) for seen in server.seen] == [256, 44]
    assert all(seen.body["model"] == "big" for seen in server.seen)
    assert server.seen[1].body["inputs"][0] == {"text": "text 256"}
    assert len({seen.connection for seen in server.seen}) == 1


def test_classify(do, server, png):
    result = do("classify", png, labels=["cat", "hat"], head="animals", top_k=2)
    assert result.best == Label("cat", 0.5)
    assert result.head == "animals"
    assert server.seen[0].body.keys() == {"image", "labels", "head", "top_k"}


def test_classify_a_pair_of_texts_and_a_pair_of_pictures(do, server, png):
    do("classify", text="it rains", text_pair="it is wet")
    assert server.seen[0].body == {"text": "it rains", "text_pair": "it is wet"}
    do("classify", images=[png, png], text="both are red")
    assert len(server.seen[1].body["images"]) == 2
    assert server.seen[1].body["text"] == "both are red"


def test_classify_many(do, server, png):
    assert len(do("classify_many", [png, png], labels=["a", "b"])) == 2
    assert server.seen[0].body["labels"] == ["a", "b"]
    assert [item.keys() for item in server.seen[0].body["inputs"]] == [{"image"}] * 2
    do("classify_many", texts=["one", ("premise", "hypothesis")])
    assert server.seen[1].body["inputs"] == [{"text": "one"}, {"text": "premise", "text_pair": "hypothesis"}]


def test_embed(do, png):
    of_image, of_text = do("embed", png), do("embed", text="a cat")
    assert of_image.vector == (0.6, -0.8)
    assert of_image.space_id == of_text.space_id == "s-1"


def test_add_makes_the_collection_and_retrieve_finds_the_items(do, server, png, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(png)
    added = do(
        "add", "gallery", {"cat": path}, texts={"note": "a dog"}, metadata={"cat": {"legs": 4}}, model="demo"
    )
    assert added.upserted == 2
    assert added.errors == {}
    assert server.paths() == [
        "GET /collections/gallery",
        "PUT /collections/gallery",
        "POST /collections/gallery/items",
    ]
    assert server.seen[1].body == {"model": "demo"}

    result = do("retrieve", "gallery", text="a sleeping cat", top_k=1, filter={"legs": 4}, rerank="auto")
    assert result.hits == (Hit("cat", 0.5, itc=0.5, itm=None, metadata={"legs": 4}),)
    assert result.space_id == "s-1"
    assert server.seen[-1].body["filter"] == {"legs": 4}
    assert len(do("retrieve_many", "gallery", texts=["a", "b"])) == 2


def test_add_reports_the_items_that_failed(do, server):
    server.collections["gallery"] = {}
    added = do("add", "gallery", {"good": b"whole", "bad": b"broken"})
    assert added.upserted == 1
    assert added.errors == {"bad": ItemError("broken_image", "broken", "image")}
    assert "PUT /collections/gallery" not in server.paths()


def test_add_sends_large_sets_in_chunks(do, server):
    added = do("add", "notes", texts={str(place): "x" for place in range(600)})
    assert added.upserted == len(server.collections["notes"]) == 600
    assert [len(seen.body["items"]) for seen in server.seen[2:]] == [256, 256, 88]


def test_collections(do):
    assert do("put_collection", "a b c") == Collection("a b c", "s-1", 0)
    assert do("get_collection", "a b c").count == 0
    assert [each.name for each in do("list_collections")] == ["a b c"]
    assert do("delete_collection", "a b c") is None
    with pytest.raises(NotFound) as caught:
        do("get_collection", "a b c")
    assert caught.value.code == "collection_not_found"
    assert caught.value.param == "collection"


def test_items_come_page_by_page(do, server):
    server.collections["many"] = {f"i{place}": {"metadata": {"place": place}} for place in range(5)}
    items = do("list_items", "many", page_size=2)
    assert items == [Item(f"i{place}", {"place": place}) for place in range(5)]
    assert len(server.seen) == 3


@pytest.mark.parametrize("id", ["plain", "a/b", "..", "with space", "100%", "ä?#"])
def test_items_by_id(do, server, id):
    server.collections["c"] = {id: {"metadata": {"k": 1}}}
    assert do("get_item", "c", id) == Item(id, {"k": 1})
    do("delete_item", "c", id)
    assert server.collections["c"] == {}


def test_models(do):
    assert do("list_models") == [Model("demo", ("vqa", "embed"), "m-1", "s-1", "ready")]


def test_an_error_carries_all_that_the_server_said(do, png):
    with pytest.raises(Unprocessable) as caught:
        do("vqa", png, "", request_id="r-1")
    error = caught.value
    assert (error.status, error.code, error.param) == (422, "invalid_field", "question")
    assert error.message == "question must not be empty"
    assert error.request_id == "r-1"
    assert str(error) == "422 invalid_field: question must not be empty [question]"


def test_a_missing_file_is_an_os_error_and_nothing_is_sent(do, server, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        do("vqa", tmp_path / "none.png", "?")
    assert server.seen == []


def test_both_clients_have_the_same_methods_and_arguments():
    def methods(cls):
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_") and name not in ("close", "aclose")
        }

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) >= 18
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_rerank_sends_the_candidates_in_order_and_reads_the_ranking(do, server, png):
    found = do("rerank", "a cat", [png, png, png], top_n=2)
    assert [(one.index, one.relevance_score) for one in found.results] == [(2, 0.2), (1, 0.1)]
    assert (found.best.index, found.model) == (2, "demo")
    sent = server.seen[-1].body
    assert (sent["query"], sent["top_n"], len(sent["images"])) == ("a cat", 2, 3)
    assert len(do("rerank", image=png, texts=["a", "b"]).results) == 2
    assert server.seen[-1].body["texts"] == ["a", "b"]


def test_routes_are_typed(do, png):
    found = do("explain_routing", "vqa", png, question="what?", top_k=1)
    assert found.layers[0].tokens[2] == RoutedToken("V", (0, 1), (0.75, 0.125))
    assert found.layers[0].tokens[1].experts == ()
    assert (found.patch_grid.rows, found.patch_grid.start, found.head) == (1, 2, "some")
    assert len(found.answer.answers) == 1
    assert found.usage.image_tokens == 49
    text = do("explain_routing", "embed", text="a cat")
    assert (text.patch_grid, text.answer.space_id) == (None, "s-1")
