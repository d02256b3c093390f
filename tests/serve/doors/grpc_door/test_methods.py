"""Every unary method against a real server, and that it answers what HTTP answers."""

import grpc
import pytest

from vlmoe_client.proto.fields import all_fields_of
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc

from ...waiting import PATIENCE_S


@pytest.fixture
def gallery(stub, png):
    """A collection of three items, gone after the test."""
    made = stub.PutCollection(pb.PutCollectionRequest(name="gallery"))
    assert (made.name, made.count) == ("gallery", 0)
    assert made.space_id
    items = [
        pb.ItemInput(id="cat", text="a sleeping cat", metadata={"kind": "text", "n": 1, "x": [None, 1.5]}),
        pb.ItemInput(id="circle", text="a red circle", metadata={"kind": "text", "n": 2}),
        pb.ItemInput(id="pictures/1", image=png(), metadata={"kind": "picture", "n": 3}),
    ]
    answer = stub.UpsertItems(pb.UpsertItemsRequest(collection="gallery", items=items))
    assert answer == pb.UpsertItemsResponse(upserted=3)
    yield "gallery"
    assert stub.DeleteCollection(pb.DeleteCollectionRequest(name="gallery")).deleted


def test_the_tasks_answer_as_over_http(stub, client, png, image):
    vqa = stub.Vqa(pb.VqaRequest(image=png(), question="is there a red circle", top_k=2))
    asked = {"image": image, "question": "is there a red circle", "top_k": 2}
    assert all_fields_of(vqa) == client.post("/vqa", json=asked).json()

    classify = stub.Classify(pb.ClassifyRequest(image=png()))
    assert all_fields_of(classify) == client.post("/classify", json={"image": image}).json()
    pair = stub.Classify(pb.ClassifyRequest(text="a cat", text_pair="a dog", head="entailment", top_k=1))
    asked = {"text": "a cat", "text_pair": "a dog", "head": "entailment", "top_k": 1}
    assert all_fields_of(pair) == client.post("/classify", json=asked).json()
    zero_shot = stub.Classify(pb.ClassifyRequest(image=png(), labels=["a circle", "a cat"]))
    asked = {"image": image, "labels": ["a circle", "a cat"]}
    assert all_fields_of(zero_shot) == client.post("/classify", json=asked).json()

    rerank = stub.Rerank(pb.RerankRequest(image=png(), texts=["a circle", "a cat"], top_n=1))
    asked = {"image": image, "texts": ["a circle", "a cat"], "top_n": 1}
    assert all_fields_of(rerank) == client.post("/rerank", json=asked).json()

    embed = stub.Embed(pb.EmbedRequest(text="a cat", model="tiny"))
    assert all_fields_of(embed) == client.post("/embed", json={"text": "a cat"}).json()


def test_the_models(stub, client):
    (model,) = stub.ListModels(pb.ListModelsRequest()).data
    (listed,) = client.get("/v1/models").json()["data"]
    assert all_fields_of(model).items() <= listed.items()
    assert (model.id, model.state, "vqa" in model.tasks) == ("tiny", "ready", True)


def test_a_picture_may_be_a_data_url_and_no_other(stub, image, refused, png):
    by_url = stub.Embed(pb.EmbedRequest(image_url=f"data:image/png;base64,{image}"))
    assert by_url == stub.Embed(pb.EmbedRequest(image=png()))
    found = refused(stub.Embed, pb.EmbedRequest(image_url="http://example.com/a.png"))
    assert (found.code, found.reason, found.param) == ("INVALID_ARGUMENT", "url_not_allowed", "image")
    found = refused(stub.Embed, pb.EmbedRequest(image=png(), image_url="data:image/png;base64,AAAA"))
    assert (found.reason, found.param) == ("invalid_field", "image_url")


def test_the_trailing_metadata_says_where_the_time_went(stub, png):
    _, call = stub.Vqa.with_call(
        pb.VqaRequest(image=png(), question="is there a cat"), metadata=[("x-request-id", "r-1")]
    )
    trailing = dict(call.trailing_metadata())
    assert trailing["x-request-id"] == "r-1"
    assert trailing["x-model-id"].startswith("m-")
    assert int(trailing["x-batch-tokens"]) > 0
    for phase in ("encode", "queue", "forward"):
        assert float(trailing[f"x-{phase}-ms"]) >= 0


def test_collections(stub, client, gallery, png):
    assert stub.GetCollection(pb.GetCollectionRequest(name=gallery)).count == 3
    listed = stub.ListCollections(pb.ListCollectionsRequest())
    assert all_fields_of(listed) == client.get("/collections").json()
    found = stub.Retrieve(pb.RetrieveRequest(collection=gallery, text="a red circle", top_k=2))
    asked = {"collection": gallery, "text": "a red circle", "top_k": 2}
    assert all_fields_of(found) == client.post("/retrieve", json=asked).json()
    assert found.hits[0].id == "circle"
    by_filter = pb.RetrieveRequest(collection=gallery, image=png(), filter={"n": {"gte": 3}}, rerank=False)
    assert [hit.id for hit in stub.Retrieve(by_filter).hits] == ["pictures/1"]


def test_items(stub, client, gallery, refused):
    cat = stub.GetItem(pb.GetItemRequest(collection=gallery, id="cat"))
    assert all_fields_of(cat) == client.get(f"/collections/{gallery}/items/cat").json()
    first = stub.ListItems(pb.ListItemsRequest(collection=gallery, limit=2))
    second = stub.ListItems(pb.ListItemsRequest(collection=gallery, limit=2, cursor=first.cursor))
    assert [item.id for item in [*first.items, *second.items]] == ["cat", "circle", "pictures/1"]
    assert (first.HasField("cursor"), second.HasField("cursor")) == (True, False)
    assert stub.DeleteItem(pb.DeleteItemRequest(collection=gallery, id="pictures/1")).deleted
    gone = refused(stub.GetItem, pb.GetItemRequest(collection=gallery, id="pictures/1"))
    assert (gone.code, gone.reason, gone.param) == ("NOT_FOUND", "item_not_found", "id")


def test_each_item_fails_alone(stub, gallery, png):
    items = [
        pb.ItemInput(id="good", image=png()),
        pb.ItemInput(id="neither"),
        pb.ItemInput(id="both", image=png(), text="a"),
        pb.ItemInput(id="../up", text="a"),
        pb.ItemInput(id="broken", image=b"none"),
        pb.ItemInput(id="nan", text="a", metadata={"x": float("nan")}),
        pb.ItemInput(id="two ways", image=png(), image_url="data:,"),
    ]
    answer = stub.UpsertItems(pb.UpsertItemsRequest(collection=gallery, items=items))
    assert answer.upserted == 1
    assert {failed.id: (failed.error.code, failed.error.param) for failed in answer.errors} == {
        "neither": ("invalid_field", "items.1.image"),
        "both": ("invalid_field", "items.2.text"),
        "../up": ("invalid_field", "items.3.id"),
        "broken": ("unsupported_image", "items.4.image"),
        "nan": ("invalid_field", "items.5.metadata"),
        "two ways": ("invalid_field", "items.6.image_url"),
    }


def test_what_is_wrong_is_said_with_the_field(stub, refused, png):
    def found(call, request):
        error = refused(call, request)
        return error.code, error.status, error.reason, error.param

    invalid = "INVALID_ARGUMENT"
    picture = png()
    cases = [
        (stub.Vqa, pb.VqaRequest(image=picture), (invalid, "422", "invalid_field", "question")),
        (stub.Vqa, pb.VqaRequest(question="a"), (invalid, "422", "invalid_field", "image")),
        (
            stub.Vqa,
            pb.VqaRequest(image=picture, question="a", top_k=0),
            (invalid, "422", "invalid_field", "top_k"),
        ),
        (
            stub.Vqa,
            pb.VqaRequest(image=b"no image", question="a"),
            (invalid, "415", "unsupported_image", "image"),
        ),
        (
            stub.Vqa,
            pb.VqaRequest(image=picture[:60], question="a"),
            (invalid, "400", "broken_image", "image"),
        ),
        (stub.Embed, pb.EmbedRequest(), (invalid, "422", "invalid_field", "image")),
        (
            stub.Embed,
            pb.EmbedRequest(text="a", model="none"),
            ("NOT_FOUND", "404", "model_not_found", "model"),
        ),
        (
            stub.Retrieve,
            pb.RetrieveRequest(collection="none", text="a"),
            ("NOT_FOUND", "404", "collection_not_found", "collection"),
        ),
        (stub.PutCollection, pb.PutCollectionRequest(), (invalid, "422", "invalid_field", "name")),
        (stub.PutCollection, pb.PutCollectionRequest(name="a b"), (invalid, "422", "invalid_field", "name")),
        (
            stub.ListItems,
            pb.ListItemsRequest(collection="none", limit=0),
            (invalid, "422", "invalid_field", "limit"),
        ),
        (stub.UpsertItems, pb.UpsertItemsRequest(), (invalid, "422", "invalid_field", "collection")),
    ]
    for call, request, expected in cases:
        assert found(call, request) == expected, request


def test_bytes_that_are_no_message(server, refused):
    with grpc.insecure_channel(server.grpc) as channel:
        for method, content in (
            ("Vqa", b"\xff\xff\xff"),
            ("Retrieve", b"\x32\x05\x0a\x01"),
            ("Retrieve", deep(200)),
        ):
            found = refused(channel.unary_unary(f"/vlmoe.v1.VLMoE/{method}"), content)
            assert (found.code, found.reason) == ("INVALID_ARGUMENT", "malformed_message")
        none = channel.stream_unary("/vlmoe.v1.VLMoE/Vqa")
        assert refused(none, iter(())).message == "the call has no message"


def deep(levels):
    """A RetrieveRequest whose filter is nested deeper than protobuf reads."""
    value = b""
    for _ in range(levels):
        # Value.list_value = ListValue.values = [Value]
        value = field(6, field(1, value))
    return field(6, field(1, field(1, b"a") + field(2, value)))


def field(number, content):
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size % 128 + 128])
        size //= 128
    return bytes([number * 8 + 2]) + length + bytes([size]) + content


def test_models_are_changed_by_admins_alone(start, make_checkpoint, tmp_path, refused):
    root = make_checkpoint(5).parent
    (tmp_path / "admins").write_text("admin-key\n")
    (tmp_path / "keys").write_text("caller-key\n")
    server = start(
        *("--model-root", str(root), "--admin-key-file", str(tmp_path / "admins")),
        *("--api-key-file", str(tmp_path / "keys")),
    )
    admin, caller = [("x-api-key", "admin-key")], [("x-api-key", "caller-key")]
    with grpc.insecure_channel(server.grpc) as channel:
        stub = vlmoe_pb2_grpc.VLMoEStub(channel)
        request = pb.LoadModelRequest(name="second", path="tiny")
        for metadata, code in ((caller, "PERMISSION_DENIED"), ([], "UNAUTHENTICATED")):
            assert refused(stub.LoadModel, request, metadata=metadata).code == code
        loaded = stub.LoadModel(request, metadata=admin, timeout=PATIENCE_S)
        assert (loaded.id, loaded.HasField("replaced")) == ("second", False)
        models = stub.ListModels(pb.ListModelsRequest(), metadata=caller).data
        assert {model.id: model.model_id for model in models}["second"] == loaded.model_id
        embedded = stub.Embed(pb.EmbedRequest(text="a cat", model="second"), metadata=caller)
        assert embedded.space_id == loaded.space_id
        again = stub.LoadModel(request, metadata=admin, timeout=PATIENCE_S)
        assert again.replaced == loaded.model_id
        assert all(report.agreement == 1 for report in again.canary if report.HasField("agreement"))
        found = refused(stub.LoadModel, pb.LoadModelRequest(name="third", path="../x"), metadata=admin)
        assert found.code == "PERMISSION_DENIED"
        assert (
            refused(stub.UnloadModel, pb.UnloadModelRequest(name="none"), metadata=admin).code == "NOT_FOUND"
        )
        gone = stub.UnloadModel(pb.UnloadModelRequest(name="second"), metadata=admin)
        assert (gone.id, gone.state) == ("second", "unloaded")
    assert server.end() == 0
