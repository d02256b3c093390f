"""What collections and items may be called."""

import re

from vlmoe_serve.errors import InvalidField
from vlmoe_serve.validation import shown

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_ID = 256


def check_name(name: str, param: str = "collection") -> str:
    """The name, if it may be a collection's.

    Raises:
        InvalidField: otherwise.
    """
    if not _NAME.fullmatch(name):
        raise InvalidField(
            "a collection's name has 1 to 128 letters, digits, '.', '_', '-', a letter or digit first, "
            f"got {shown(name)}",
            param=param,
        )
    return name


def check_id(item_id: str, param: str) -> str:
    """The id, if it may be an item's: printable, and never a step through a path.

    Raises:
        InvalidField: otherwise.
    """
    parts = item_id.split("/")
    if not 1 <= len(item_id) <= MAX_ID or not item_id.isprintable() or {"", ".", ".."} & set(parts):
        raise InvalidField(
            f"an id has 1 to {MAX_ID} printable characters; no part between slashes is empty, '.' or '..', "
            f"got {shown(item_id)}",
            param=param,
        )
    return item_id
