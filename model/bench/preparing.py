"""One picture from its file to a head's pixels: decoding, then crop and resize, plainly and as they are.

    .venv/bin/python model/bench/preparing.py [--sides 160 320 640] [--repeats 200]

In turns, one thread. Prints microseconds of the thread's processor time: medians of Pillow and numpy over the whole
picture and of ours, and the ratio. First it checks that both make the same pixels.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmoe_model.config import Crop, ImageSpec
from vlmoe_model.images import open_image, prepare

Pixels = npt.NDArray[np.uint8]
# what the demo checkpoint's heads want
SPECS: tuple[tuple[int, Crop], ...] = ((96, "none"), (64, "content"))


def plainly(image: Image.Image, spec: ImageSpec) -> Pixels:
    """`prepare` by Pillow's resize, and comparisons over the whole picture."""
    size, method = (spec.size, spec.size), Image.Resampling.BICUBIC
    if spec.crop == "none":
        return np.array(image.resize(size, method))
    pixels = np.asarray(image)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0).astype(np.int16)
    low, high = (np.clip(ground + step, 0, 255).astype(np.uint8) for step in (-16, 16))
    leaves = ((pixels < low) | (pixels > high)).any(axis=2)
    rows, columns = np.flatnonzero(leaves.any(axis=1)), np.flatnonzero(leaves.any(axis=0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    scale = spec.size / (max(right - left, bottom - top) * 1.04)
    inner = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    square = Image.new("RGB", size, tuple(ground.tolist()))
    part = image.resize(inner, method, box=(left, top, right, bottom))
    square.paste(part, ((spec.size - inner[0]) // 2, (spec.size - inner[1]) // 2))
    return np.array(square)


def drawing(side: int) -> Image.Image:
    """A coloured part on a plain ground."""
    pixels = np.full((side, side, 3), 240, np.uint8)
    part = pixels[side // 5 : 4 * side // 5, side // 4 : side // 2]
    part[:] = np.random.default_rng(0).integers(200, size=part.shape)
    return Image.fromarray(pixels)


def microseconds(work: Callable[[], object]) -> float:
    """One call."""
    start_ns = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start_ns) / 1000


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 320, 640])
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    for side in args.sides:
        image, file = drawing(side), io.BytesIO()
        image.save(file, "PNG")
        data = file.getvalue()
        decoding = statistics.median(microseconds(partial(open_image, data)) for _ in range(args.repeats))
        print(f"{side:4d} x {side}: decoding a PNG {decoding:.0f} us")
        for size, crop in SPECS:
            spec = ImageSpec(size=size, crop=crop)
            if not np.array_equal(plainly(image, spec), prepare(image, spec)):
                raise SystemExit(f"crop {crop}: other pixels")
            ways = [partial(way, image, spec) for way in (plainly, prepare)]
            times = [[microseconds(way) for way in ways] for _ in range(args.repeats)]
            old, new = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"     crop {crop} to {size}: {old:.0f} -> {new:.0f} us, {old / new:.1f} times")


if __name__ == "__main__":
    main()
