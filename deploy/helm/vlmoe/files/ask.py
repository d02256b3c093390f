"""Ask every served model one question it can answer, and fail unless each answers.

KEY=... python ask.py http://SERVICE:PORT [CA_FILE]
"""

import base64
import json
import os
import ssl
import struct
import sys
import urllib.request
import zlib

_TIMEOUT_S = 60
_SIDE = 32


def picture() -> str:
    """A red square as a PNG, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xd0\x20\x20" * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(png).decode()


def questions() -> dict[str, dict[str, str]]:
    """A body for each task, the most telling first."""
    return {
        "vqa": {"image": picture(), "question": "what color is the shape?"},
        "classify": {"image": picture()},
        "embed": {"image": picture()},
    }


def call(url: str, body: dict[str, str] | None, trust: ssl.SSLContext | None) -> dict[str, object]:
    """One call; raises OSError for any other answer than 200."""
    headers = {"content-type": "application/json"}
    if os.environ.get("KEY"):
        headers["x-api-key"] = os.environ["KEY"]
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=trust) as answer:
        return json.load(answer)


def main() -> int:
    """Ask, print, and say by the exit code how it went."""
    url, *authorities = sys.argv[1:]
    trust = ssl.create_default_context(cafile=authorities[0]) if authorities else None
    try:
        for model in call(f"{url}/v1/models", None, trust)["data"]:
            task = next(task for task in questions() if task in model["tasks"])
            answer = call(f"{url}/{task}", {**questions()[task], "model": model["id"]}, trust)
            print(f"{model['id']}: {task}: {json.dumps(answer)[:300]}")
    except (OSError, ValueError, KeyError, StopIteration) as error:
        print(f"{url}: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
