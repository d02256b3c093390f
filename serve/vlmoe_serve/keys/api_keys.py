"""The keys that callers must show: read from a file, kept as hashes, compared in constant time.

    sha256:5e88...1542 team-a      the hash of a key, and the name that metrics call it by
    a key as it is                 for a first try: whoever can read the file can use it

A hash is made with `printf %s "$KEY" | sha256sum`. Keys must be long and random (`openssl rand -hex 32`): a hash of a
short one can be guessed.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from vlmoe_serve.option_sources import UsageError

_log = logging.getLogger(__name__)
_HASHED = re.compile(r"sha256:([0-9a-f]{64})(?:\s+([A-Za-z0-9][A-Za-z0-9._-]{0,63}))?")


class ApiKeys:
    """A set of keys. The empty set lets everybody in."""

    def __init__(self, names: Mapping[bytes, str] | None = None, path: Path | None = None) -> None:
        self._names = dict(names or {})
        self.path = path

    @classmethod
    def load(cls, path: Path | None) -> "ApiKeys":
        """Read a file with a key a line; empty lines and # comments are skipped.

        Raises:
            UsageError: unreadable, or no key in it.
        """
        return cls() if path is None else cls(_read(path), path)

    def reload(self) -> None:
        """Read the file again.

        Raises:
            UsageError: unreadable, or no key in it; the keys stay as they were.
        """
        if self.path is not None:
            self._names = _read(self.path)
            _log.info("%d keys were read again", len(self._names))

    def __bool__(self) -> bool:
        return bool(self._names)

    def admit(self, key: bytes | None) -> bool:
        """Whether the key is one of ours, or none is asked for."""
        return not self._names or self.name_of(key) is not None

    def name_of(self, key: bytes | None) -> str | None:
        """What the key is called; None for none or a foreign one. A wrong key takes as long as a right one."""
        shown = hashlib.sha256(key or b"").digest()
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(shown, known):
                found = name
        return None if key is None else found


def _read(path: Path) -> dict[bytes, str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    names: dict[bytes, str] = {}
    num_plain = 0
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        hashed = _HASHED.fullmatch(line)
        if hashed is not None:
            names[bytes.fromhex(hashed[1])] = hashed[2] or f"line-{number}"
        else:
            num_plain += 1
            names[hashlib.sha256(line.encode()).digest()] = f"line-{number}"
    if not names:
        raise UsageError(f"{path}: holds no key")
    if num_plain:
        _log.warning(
            "%s: %d of %d keys are not hashed; write sha256:HEX instead", path, num_plain, len(names)
        )
    return names
