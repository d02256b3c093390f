import pytest

from vlmoe_client import AddResult, ItemError, _store


def test_items_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="'a' is given as both"):
        _store.add("c", {"a": b"x"}, texts={"a": "x"})
    with pytest.raises(ValueError, match="metadata for 'b', which is not among the items"):
        _store.add("c", {"a": b"x"}, metadata={"b": {}})
    with pytest.raises(ValueError, match="id must not be empty"):
        _store.add("c", {"": b"x"})
    with pytest.raises(ValueError, match="empty"):
        _store.add("", {"a": b"x"})
    with pytest.raises(ValueError, match="holds no slash, got 'a/b'"):
        _store.add("a/b", {"a": b"x"})


def test_metadata_goes_with_its_item():
    (call,) = _store.add("c", {"a": b"abc"}, texts={"b": "x"}, metadata={"b": {"k": 1}})
    assert call.path == "/collections/c/items"
    assert call.body == {
        "items": [{"id": "a", "image": b"abc"}, {"id": "b", "text": "x", "metadata": {"k": 1}}]
    }


def test_parts_are_merged():
    error = ItemError("broken_image", "broken")
    assert _store.merge([AddResult(2), AddResult(1, {"x": error})]) == AddResult(3, {"x": error})
    assert _store.merge([]) == AddResult(0, {})


def test_cursors_are_quoted():
    assert (
        _store.list_items("a b", cursor="x/y&z", limit=5).path
        == "/collections/a%20b/items?limit=5&cursor=x%2Fy%26z"
    )
