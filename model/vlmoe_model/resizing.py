"""Resizing of RGB pictures as Pillow does it, bit for bit: in C where that can be built (`resize.c`), else by Pillow.

    python -m vlmoe_model.resizing     build it now: for images, which then need no compiler where they run

Preparing a picture of 160 x 160 was mostly Pillow's resize, which computes a value at a time.
"""

import ctypes
import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmoe_model import compiled

_log = logging.getLogger(__name__)
Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
_SOURCE = Path(__file__).with_name("resize.c")

METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# Larger ones go to Pillow, which needs no copy of them
_MAX_PIXELS = 1 << 20
# -ffp-contract: a multiply-add would round once where Pillow rounds twice
_FLAGS = ("-O3", "-mavx2", "-ffp-contract=off", "-D_POSIX_C_SOURCE=200112L", "-w")


def resized(image: Image.Image, size: tuple[int, int], method: str, box: Box | None = None) -> Pixels:
    """What `image.resize(size, METHODS[method], box)` shows, of an RGB image: uint8 [height, width, 3]."""
    small = image.width * image.height <= _MAX_PIXELS
    function = in_c() if small and _width_first(image.size, size) else None
    return (function or by_pillow)(image, size, method, box)


def by_pillow(image: Image.Image, size: tuple[int, int], method: str, box: Box | None = None) -> Pixels:
    """The truth."""
    return np.array(image.resize(size, METHODS[method], box=box))


def _width_first(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether every Pillow resizes the width before the height: from 13 on it may be the other way, found by trying."""
    taken_across, taken_down = size[0] - target[0], size[1] - target[1]
    return taken_down <= 0 or taken_down <= 2 * taken_across


@functools.cache
def in_c() -> Callable[..., Pixels] | None:
    """`resize.c`, if it can be built and says what the Pillow that is installed says; else None, said once.

    The first call on a machine compiles it, about a second.
    """
    try:
        found = build()
    except RuntimeError as error:
        _log.info("pictures are resized by Pillow, not in C: %s", error)
        return None
    dice = np.random.default_rng(0)
    for height, width in ((50, 37), (9, 120)):
        image = Image.fromarray(dice.integers(256, size=(height, width, 3), dtype=np.uint8))
        for method in METHODS:
            if (found(image, (24, 31), method) != by_pillow(image, (24, 31), method)).any():
                _log.warning("pictures are resized by Pillow, not in C: this Pillow resizes in another way")
                return None
    return found


def build() -> Callable[..., Pixels]:
    """`resize.c` as a function like `by_pillow`, whatever the size, and always width first.

    Raises:
        RuntimeError: it cannot be compiled here, or not run.
    """
    library = compiled.load(_SOURCE, compiled.cache_directory(), _FLAGS)
    if not library.can_run():
        raise RuntimeError("the processor lacks avx2")
    function = library.resize_rgb
    whole, address = ctypes.c_int64, ctypes.c_void_p
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.c_char_p, whole, whole, address, whole, whole, whole, address]

    def resize(image: Image.Image, size: tuple[int, int], method: str, box: Box | None = None) -> Pixels:
        width, height = size
        out = np.empty((height, width, 3), np.uint8)
        sides = (ctypes.c_float * 4)(*(box or (0, 0, image.width, image.height)))
        where, cubic = out.ctypes.data, method == "bicubic"
        if function(image.tobytes(), image.width, image.height, sides, width, height, cubic, where):
            raise MemoryError(f"no memory to resize an image of {image.width}x{image.height}")
        return out

    return resize


if __name__ == "__main__":
    try:
        build()
    except RuntimeError as reason:
        sys.exit(f"resizing in C cannot be built: {reason}")
