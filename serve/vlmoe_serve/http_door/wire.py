"""An answer as it goes over a connection of HTTP/1.1."""

from collections.abc import Iterable
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """All of it but what every answer of a server has in common."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer_bytes(answer: Answer, common: Headers, *, close: bool = False) -> bytes:
    """Head and body.

    Args:
        answer: its headers need not tell the length.
        common: headers of every answer.
        close: whether the connection ends behind it.

    Raises:
        ValueError: a header would not stay on its line.
    """
    lines = [b"%s: %s" % header for header in (*common, *answer.headers)]
    lines.append(b"content-length: %d" % len(answer.body))
    if close:
        lines.append(b"connection: close")
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
        raise ValueError("a header has a line break in it")
    return b"%s%s\r\n\r\n%s" % (STATUS_LINE[answer.status], head, answer.body)
