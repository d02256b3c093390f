import hashlib

import pytest

from vlmoe_serve.api_keys import ApiKeys
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
