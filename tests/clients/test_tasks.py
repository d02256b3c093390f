import pytest

from vlmoe_client import _tasks


def test_fields_that_are_not_given_are_not_sent():
    assert _tasks.retrieve("c", text="x").body == {"collection": "c", "text": "x"}
    assert _tasks.retrieve("c", text="x", rerank=False).body == {
        "collection": "c",
        "text": "x",
        "rerank": False,
    }
    assert _tasks.classify(text="").body == {"text": ""}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: _tasks.embed(), "either an image or a text"),
        (lambda: _tasks.embed(b"a", text="a"), "either an image or a text"),
        (lambda: _tasks.embed_many(), "either images or texts"),
        (lambda: _tasks.embed_many([b"a"], texts=["a"]), "either images or texts"),
        (lambda: _tasks.classify(), "needs an image, a text"),
        (lambda: _tasks.classify(b"a", images=[b"a"]), "not both"),
        (lambda: _tasks.classify_many(), "either images or texts"),
        (lambda: _tasks.retrieve("c"), "needs a text, an image"),
        (lambda: _tasks.rerank("a"), "either a query with images"),
        (lambda: _tasks.rerank(image=b"a"), "either a query with images"),
        (lambda: _tasks.rerank(images=[b"a"], texts=["a"]), "either a query with images"),
        (lambda: _tasks.rerank("a", [b"a"], texts=["a"]), "either a query with images"),
        (lambda: _tasks.rerank("a", [b"a"], image=b"a"), "either a query with images"),
        (lambda: _tasks.retrieve_many("c"), "either images or texts"),
    ],
)
def test_calls_that_cannot_be_are_refused(build, reason):
    with pytest.raises(ValueError, match=reason):
        build()


def test_one_string_is_not_several():
    with pytest.raises(TypeError, match="several images or texts, got one str"):
        _tasks.embed_many(texts="word")
    with pytest.raises(TypeError, match="several images or texts, got one bytes"):
        _tasks.embed_many(b"png")
    with pytest.raises(TypeError, match="a sequence of images or texts"):
        _tasks.rerank("a", b"png")
    with pytest.raises(TypeError, match="labels is a sequence of strings"):
        _tasks.classify(b"a", labels="cat,dog")
