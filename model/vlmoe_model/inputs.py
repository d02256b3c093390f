"""The data that travels from a prepared request or sample to the network. Numpy only.

image, text --Processor--> Example --Job(head)--> pack --> network --> Output
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_model.routing_mode import RoutingMode


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence: an image, a text, or both.

    image: uint8 [size, size, 3], RGB, already cropped and resized; not yet normalised.
    tokens: int32 [length], starts with [T_CLS] and ends with [T_SEP].
    """

    image: npt.NDArray[np.uint8] | None = None
    tokens: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if self.image is None and self.tokens is None:
            raise ValueError("an example needs an image, a text, or both")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One example and the head that is to answer it.

    explain: its output is followed by what the routers chose for it (`explanation.py`).
    mode: how its tokens find experts; None leaves that to whoever runs it.
    """

    head: str
    example: Example
    explain: bool = False
    mode: RoutingMode | None = None

    def num_tokens(self, patch_size: int) -> tuple[int, int]:
        """(image tokens, text tokens) of this job; an image has one token a patch and one [I_CLS]."""
        image, tokens = self.example.image, self.example.tokens
        num_text = 0 if tokens is None else len(tokens)
        if image is None:
            return 0, num_text
        return (image.shape[0] // patch_size) * (image.shape[1] // patch_size) + 1, num_text
