"""What the names on a command line stand for: a picture, a text, or a folder of either."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"})
TEXTS = frozenset({".txt"})
_REMOTE = ("http://", "https://", "data:")


class UsageError(Exception):
    """The command line asks for something that cannot be; exit code 2."""


def picture(name: str) -> str | bytes:
    """A picture argument: a URL or a file's name as it is, `-` is read from standard input."""
    if name == "-":
        return sys.stdin.buffer.read()
    if not name.startswith(_REMOTE) and not Path(name).is_file():
        raise UsageError(f"{name}: no such picture file")
    return name


def query(argument: str, kind: str) -> tuple[str | None, str | bytes | None]:
    """What to search for, as (text, image), one of them None.

    Args:
        argument: Words or a picture's name.
        kind: "text", "image", or "auto" to tell by whether it names a file.
    """
    if kind == "auto":
        if argument == "-" or argument.startswith(_REMOTE) or _is_file(argument):
            kind = "image"
        elif Path(argument).suffix.lower() in PICTURES and " " not in argument:
            raise UsageError(f"{argument}: no such picture file; if these are words, add --as text")
        else:
            kind = "text"
    return (argument, None) if kind == "text" else (None, picture(argument))


def items_of(paths: Iterable[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """Pictures and texts by id, which is the file's name."""
    images: dict[str, Path] = {}
    texts: dict[str, str] = {}
    seen: dict[str, Path] = {}
    for path in (each for given in paths for each in _files(given)):
        first = seen.setdefault(path.name, path)
        if first != path:
            raise UsageError(f"{first} and {path} would both have the id {path.name!r}")
        if path.suffix.lower() in TEXTS:
            try:
                texts[path.name] = path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                raise UsageError(f"{path}: not UTF-8 text") from None
        else:
            images[path.name] = path
    return images, texts


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(
            each for each in path.iterdir() if each.suffix.lower() in PICTURES | TEXTS and each.is_file()
        )
        if not found:
            raise UsageError(f"{path}: no pictures in this folder")
        yield from found
    elif path.is_file():
        yield path
    else:
        raise UsageError(f"{path}: no such file")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # longer than a file's name can be, or with a NUL: words
        return False
