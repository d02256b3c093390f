"""Where a drawing lies on its ground: the box of what differs from the colour of the border.

    border --median--> ground;   bands from all four sides inward, up to the first that leaves the ground --> box

Of a large picture no copy is made but of a band at a time, and a photo stops the search at its first bands.
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]
_Hits = npt.NDArray[np.bool_]

# How far a channel must be from the border's colour to count as content.
_THRESHOLD = 16
# A picture of no more pixels is looked at as a whole, once for its rows and its columns; larger ones in bands.
_WHOLE_PIXELS = 1 << 17
_BAND_PIXELS = 1 << 16


def content(image: Image.Image) -> tuple[Box, Colour]:
    """The box (left, top, right, bottom) of what leaves the ground, and the ground's colour. Takes an RGB image.

    A picture that is all ground is content as a whole.
    """
    width, height = image.size
    whole = (0, 0, width, height)
    if width * height <= _WHOLE_PIXELS:
        pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)
        ground = _median((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
        hits = _leaves(pixels.reshape(height, width * 3), ground)
        rows = _ends(_rows(hits))
        if rows is None:
            return whole, ground
        columns = _ends(_columns(hits)) or (0, width)
        return (columns[0], rows[0], columns[1], rows[1]), ground

    def part(left: int, top: int, right: int, bottom: int) -> npt.NDArray[np.uint8]:
        data = image.crop((left, top, right, bottom)).tobytes()
        return np.frombuffer(data, np.uint8).reshape(bottom - top, (right - left) * 3)

    last_row, last_column = height - 1, width - 1
    sides = (
        (0, 0, width, 1),
        (0, last_row, width, height),
        (0, 0, 1, height),
        (last_column, 0, width, height),
    )
    ground = _median(part(*side).reshape(-1, 3) for side in sides)
    rows = _search(height, width, lambda begin, end: _rows(_leaves(part(0, begin, width, end), ground)))
    if rows is None:
        return whole, ground

    def of_columns(begin: int, end: int) -> _Hits:
        return _columns(_leaves(part(begin, rows[0], end, rows[1]), ground))

    columns = _search(width, rows[1] - rows[0], of_columns) or (0, width)
    return (columns[0], rows[0], columns[1], rows[1]), ground


def _median(sides: Iterable[npt.NDArray[np.uint8]]) -> Colour:
    """The middle colour of the border's pixels, channel by channel; the corners count twice, so they are even."""
    border = np.concatenate(list(sides))
    half = len(border) // 2
    border.partition((half - 1, half), axis=0)
    red, green, blue = ((border[half - 1].astype(np.int64) + border[half]) // 2).tolist()
    return red, green, blue


def _leaves(pixels: npt.NDArray[np.uint8], ground: Colour) -> _Hits:
    """Which values [rows, 3 * columns] are farther from the ground than the threshold."""
    low = [max(0, channel - _THRESHOLD) for channel in ground]
    span = [min(255, channel + _THRESHOLD) - least for channel, least in zip(ground, low, strict=True)]
    columns = pixels.shape[1] // 3
    # what lies below wraps around to large numbers: one comparison instead of two
    offset = pixels - np.array(low * columns, np.uint8)
    leaves: _Hits = offset > np.array(span * columns, np.uint8)
    return leaves


def _rows(hits: _Hits) -> _Hits:
    any_of: _Hits = np.logical_or.reduce(hits, axis=1)
    return any_of


def _columns(hits: _Hits) -> _Hits:
    # a row's values are red, green and blue in turns
    return _rows(np.logical_or.reduce(hits, axis=0).reshape(-1, 3))


def _ends(hits: _Hits) -> tuple[int, int] | None:
    """Begin and end of what is hit."""
    if not hits.any():
        return None
    return int(hits.argmax()), len(hits) - int(hits[::-1].argmax())


def _search(count: int, across: int, hits: Callable[[int, int], _Hits]) -> tuple[int, int] | None:
    """Begin and end of what is hit of `count` lines, `across` pixels long. Goes in from both ends, band by band."""
    step = max(1, _BAND_PIXELS // across)
    bands = [(begin, min(begin + step, count)) for begin in range(0, count, step)]

    def first(order: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
        for begin, end in order:
            found = _ends(hits(begin, end))
            if found is not None:
                return begin + found[0], begin + found[1]
        return None

    front = first(bands)
    back = None if front is None else first(reversed(bands))
    return None if front is None or back is None else (front[0], back[1])
