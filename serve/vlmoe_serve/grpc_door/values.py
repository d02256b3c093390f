"""How many values a message holds, counted in its bytes before anything is made of them.

An empty part of a message takes two bytes, and a hundred times that as an object: ten megabytes of them took seconds
and gigabytes. So bytes are walked through first, along the fields that hold messages, and no further than a limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# What the wire says of a field's form: https://protobuf.dev/programming-guides/encoding/
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MORE = 0x80


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The fields of a kind of message that are more than one value: messages, and lists of numbers (None)."""

    by_number: dict[int, "Parts | None"] = field(default_factory=dict)


@cache
def parts_of(kind: Any) -> Parts:
    """The parts of a kind of message, by its descriptor, and theirs."""
    return _parts(kind, {})


def _parts(kind: Any, known: dict[str, Parts]) -> Parts:
    # kinds may hold themselves, as JSON's values do
    parts = known.get(kind.full_name)
    if parts is None:
        parts = known[kind.full_name] = Parts()
        for one in kind.fields:
            if one.message_type is not None:
                parts.by_number[one.number] = _parts(one.message_type, known)
            elif one.is_repeated and one.type not in (one.TYPE_STRING, one.TYPE_BYTES):
                parts.by_number[one.number] = None
    return parts


def holds_more_than(most: int, content: bytes, kind: Any) -> bool:
    """Whether a message in these bytes has more fields than that, those of its parts counted too. kind: its descriptor.

    Bytes that are no message have any number: whoever reads them finds that out.
    """
    try:
        return _count(content, parts_of(kind), most) > most
    except IndexError:
        return False


def _count(content: bytes, parts: Parts, most: int) -> int:
    count = 0
    left: list[tuple[int, int, Mapping[int, Parts | None]]] = [(0, len(content), parts.by_number)]
    while left:
        place, end, known = left.pop()
        while place < end and count <= most:
            count += 1
            tag, place = _varint(content, place)
            form = tag & 7
            if form == _BYTES:
                size, place = _varint(content, place)
                if tag >> 3 in known:
                    part = known[tag >> 3]
                    if part is None:
                        count += size
                    else:
                        left.append((place, place + size, part.by_number))
                place += size
            elif form == _VARINT:
                _, place = _varint(content, place)
            elif form == _FIXED64:
                place += 8
            elif form == _FIXED32:
                place += 4
    return count


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """A number in seven bits a byte, and where it ends."""
    number = content[place]
    if number < _MORE:
        return number, place + 1
    number &= _MORE - 1
    shift = 7
    while True:
        place += 1
        byte = content[place]
        number |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return number, place + 1
        shift += 7
