"""A picture, however the caller holds it, as the string the server takes.

Bytes that are given are sent as they are: decoding is the server's, so that training and serving agree.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image"

_REMOTE = ("http://", "https://", "data:")
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"})


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture in a request body; read when the body is encoded, not before."""

    source: ImageSource

    def load(self) -> bytes | str:
        """The file's bytes, or the URL as it is."""
        if isinstance(self.source, str) and self.source.startswith(_REMOTE):
            return self.source
        return _read(self.source)

    def to_string(self) -> str:
        """Base64 of the file's bytes, or the URL as it is."""
        return as_string(self.load())


def as_string(picture: bytes | str) -> str:
    """A loaded picture as JSON carries it."""
    return picture if isinstance(picture, str) else base64.b64encode(picture).decode("ascii")


def _read(source: ImageSource) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            data = file.read()
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif _is_pil(source):
        data = _to_png(source)
    elif hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise TypeError(
                f"an image file must be opened in binary mode, its read() gave {type(data).__name__}"
            )
    else:
        raise TypeError(
            f"an image is a path, bytes, a PIL image or a binary file, got {type(source).__name__}"
        )
    if not data:
        raise ValueError(f"the image {_name(source)} is empty")
    return data


def _is_pil(source: object) -> TypeGuard[Image]:
    # asked by its methods, so that Pillow is not imported for those who send files
    return hasattr(source, "getbands") and hasattr(source, "getexif")


def _to_png(image: Image) -> bytes:
    from PIL import ImageOps  # the only place that needs Pillow

    # PNG keeps no orientation, and the same photo given as a path would be turned by the server
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    # level 1: this travels once, so time counts more than bytes
    upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _name(source: ImageSource) -> str:
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fspath(source))
    return f"({type(source).__name__})"
