"""The keys that callers must show: read from a file, kept as hashes, compared in constant time."""

import hashlib
import hmac
import re
from pathlib import Path

from vlmoe_serve.option_sources import UsageError

_HASHED = re.compile(r"sha256:[0-9a-f]{64}")


class ApiKeys:
    """A set of keys. The empty set lets everybody in."""

    def __init__(self, hashes: tuple[bytes, ...] = ()) -> None:
        self._hashes = hashes

    @classmethod
    def load(cls, path: Path | None) -> "ApiKeys":
        """Read a file with a key a line, as it is or as `sha256:HEX`; empty lines and # comments are skipped.

        Raises:
            UsageError: unreadable, or no key in it.
        """
        if path is None:
            return cls()
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise UsageError(f"{path}: holds no key")
        return cls(tuple(_hash_of(key) for key in keys))

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def admit(self, key: bytes | None) -> bool:
        """Whether the key is one of ours. Takes as long for a wrong key as for a right one."""
        if not self._hashes:
            return True
        shown = hashlib.sha256(key or b"").digest()
        found = [hmac.compare_digest(shown, known) for known in self._hashes]
        return key is not None and any(found)


def _hash_of(line: str) -> bytes:
    if _HASHED.fullmatch(line):
        return bytes.fromhex(line.removeprefix("sha256:"))
    return hashlib.sha256(line.encode()).digest()
