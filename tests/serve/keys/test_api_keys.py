import hashlib

import pytest

from vlmoe_serve.keys.api_keys import ApiKeys
from vlmoe_serve.option_sources import UsageError


def test_keys_as_they_are_and_hashed(tmp_path):
    file = tmp_path / "keys"
    hashed = hashlib.sha256(b"second").hexdigest()
    file.write_text(f"# ours\n\n  first  \nsha256:{hashed}\nsha256:short\n")
    keys = ApiKeys.load(file)
    assert keys
    assert all(keys.admit(key) for key in (b"first", b"second", b"sha256:short"))
    assert not any(
        keys.admit(key) for key in (None, b"", b"third", b"First", f"sha256:{hashed}".encode(), b"# ours")
    )


def test_without_a_file_everybody_is_let_in():
    keys = ApiKeys.load(None)
    assert not keys
    assert keys.admit(None)


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=str(file)):
        ApiKeys.load(file)


def test_keys_have_names(tmp_path):
    file = tmp_path / "keys"
    first, second = (hashlib.sha256(key).hexdigest() for key in (b"first", b"second"))
    file.write_text(f"# ours\nsha256:{first} team-a\nsha256:{second}\nthird\nsha256:{second} not a name\n")
    keys = ApiKeys.load(file)
    names = [keys.name_of(key) for key in (b"first", b"second", b"third", b"fourth", b"", None)]
    assert names == ["team-a", "line-3", "line-4", None, None, None]
    assert keys.admit(f"sha256:{second} not a name".encode())


def test_keys_that_lie_open_are_said_once(tmp_path, caplog):
    file = tmp_path / "keys"
    file.write_text(f"sha256:{hashlib.sha256(b'a').hexdigest()}\n")
    ApiKeys.load(file)
    assert not caplog.records
    file.write_text("plain\n")
    ApiKeys.load(file)
    assert "1 of 1 keys are not hashed" in caplog.text
    assert "plain" not in caplog.text.replace(str(file), "")


def test_keys_are_read_again_and_a_bad_file_changes_nothing(tmp_path):
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = ApiKeys.load(file)
    file.write_text("# nobody\n")
    with pytest.raises(UsageError):
        keys.reload()
    assert keys.admit(b"old")
    file.write_text("new\n")
    keys.reload()
    assert keys.admit(b"new")
    assert not keys.admit(b"old")
