import pytest

from vlmoe_serve.errors import InvalidField
from vlmoe_serve.retrieval.names import check_id, check_name
from vlmoe_serve.validation import shown


@pytest.mark.parametrize("name", ["g", "my.gallery-2_x", "9" * 128])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "caf\u00e9", "a\n", "a" * 129])
def test_no_names(name):
    with pytest.raises(InvalidField) as caught:
        check_name(name)
    assert caught.value.param == "collection"
    assert caught.value.message.endswith(f", got {shown(name)}")


@pytest.mark.parametrize("item_id", ["a", "cats/1.png", "caf\u00e9 \u2603", "a.b", "...", "x" * 256])
def test_ids(item_id):
    assert check_id(item_id, "id") == item_id


@pytest.mark.parametrize(
    "item_id", ["", ".", "..", "a/../b", "/a", "a/", "a//b", "a\x00", "a\n", "\ud800", "x" * 257]
)
def test_no_ids(item_id):
    with pytest.raises(InvalidField) as caught:
        check_id(item_id, "items.0.id")
    assert caught.value.param == "items.0.id"
    assert caught.value.message.endswith(f", got {shown(item_id)}")
