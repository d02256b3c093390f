"""What is asked: whole HTTP requests, made before the clock starts, so that sending one costs next to nothing.

Pictures are smooth noise: they compress like photographs, and no cache has seen them.
"""

import base64
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

_WORDS = (
    *("what", "how", "many", "is", "are", "the", "a", "there", "in", "left", "of", "right", "above", "below"),
    *(
        "red",
        "blue",
        "green",
        "small",
        "large",
        "two",
        "three",
        "dog",
        "cat",
        "banana",
        "apple",
        "car",
        "boat",
    ),
    *("tree", "house", "star", "shape", "square", "circle", "person", "holding", "beside", "picture"),
)
# Sides of pictures as users send them, and how often.
_SIDES = ((160, 5), (320, 3), (640, 2))
# Distinct requests of each kind; they are sent in turn.
_NUM_DISTINCT = 24


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. kind: for the report. num_inputs: how many answers it asks for."""

    kind: str
    path: str
    body: bytes
    num_inputs: int = 1

    def wire(self, host: str, headers: Mapping[str, str]) -> bytes:
        """The bytes of the request."""
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"host: {host}",
            "content-type: application/json",
            f"content-length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def picture(dice: random.Random, side: int, kind: str = "JPEG") -> str:
    """A picture of that many pixels a side, as JSON carries it."""
    coarse = max(4, side // 16)
    noise = Image.frombytes("RGB", (coarse, coarse), dice.randbytes(coarse * coarse * 3))
    buffer = io.BytesIO()
    noise.resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def words(dice: random.Random, low: int, high: int) -> str:
    """A text of that many words, short ones more often than long ones."""
    count = round(low * (high / low) ** dice.random())
    return " ".join(dice.choice(_WORDS) for _ in range(count))


def _side(dice: random.Random) -> int:
    sides, often = zip(*_SIDES, strict=True)
    return int(dice.choices(sides, often)[0])


def vqa(dice: random.Random) -> Ask:
    """A question about a picture."""
    return _ask("vqa", "/vqa", {"image": picture(dice, _side(dice)), "question": words(dice, 4, 12)})


def small_vqa(dice: random.Random) -> Ask:
    """A question about a small PNG, which costs little to decode."""
    return _ask("vqa", "/vqa", {"image": picture(dice, 160, "PNG"), "question": words(dice, 4, 6)})


def classify(dice: random.Random) -> Ask:
    """A picture to be classified."""
    return _ask("classify", "/classify", {"image": picture(dice, _side(dice))})


def embed_text(dice: random.Random) -> Ask:
    """A caption or a query."""
    return _ask("embed text", "/embed", {"text": words(dice, 3, 24)})


def embed_image(dice: random.Random) -> Ask:
    """A picture to be indexed."""
    return _ask("embed image", "/embed", {"image": picture(dice, _side(dice))})


def batch(dice: random.Random) -> Ask:
    """A client's own batch of captions."""
    inputs = [{"text": words(dice, 3, 24)} for _ in range(dice.choice((8, 16, 32)))]
    return _ask("batch", "/embed", {"inputs": inputs})


Maker = Callable[[random.Random], Ask]
# Each mix: makers, and how often.
MIXES: Mapping[str, Sequence[tuple[Maker, int]]] = {
    "vqa": ((vqa, 1),),
    "small-vqa": ((small_vqa, 1),),
    "text": ((embed_text, 1),),
    "mixed": ((vqa, 5), (classify, 2), (embed_text, 6), (embed_image, 2), (batch, 1)),
}


def asks(mix: str, seed: int) -> Sequence[Ask]:
    """Distinct requests of a mix in random order; send them over and over.

    Raises:
        KeyError: no such mix.
    """
    dice = random.Random(seed)
    kinds, often = zip(*MIXES[mix], strict=True)
    return [maker(dice) for maker in dice.choices(kinds, often, k=_NUM_DISTINCT * len(kinds))]


def _ask(kind: str, path: str, body: Mapping[str, object]) -> Ask:
    inputs = body.get("inputs")
    return Ask(kind, path, json.dumps(body).encode(), len(inputs) if isinstance(inputs, list) else 1)
