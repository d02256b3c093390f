"""What a head wants -> what the network takes: one `Example` from a picture, a text, or both."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.errors import InputError, TextTooLongError
from vlmoe_model.images import prepare
from vlmoe_model.inputs import Example
from vlmoe_model.tokenizer import Tokenizer

# Longer texts are refused before tokenising: tokenising megabytes to refuse them would be work for nothing.
MAX_CHARACTERS_PER_TOKEN = 100


class Processor:
    """Prepares inputs for the heads of one checkpoint. Holds no mutable state; share it between threads."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer

    def image_spec(self, head: HeadConfig | str) -> ImageSpec:
        """How the head wants its images.

        Raises:
            InputError: it takes none.
        """
        head = self._head(head)
        if head.image is None:
            raise InputError(f"head {head.name!r} ({head.task}) takes no image")
        return head.image

    def image(
        self, head: HeadConfig | str, image: Image.Image | npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """An RGB picture as the head wants it: uint8 [size, size, 3]. Pixels must be so already."""
        spec = self.image_spec(head)
        if isinstance(image, Image.Image):
            return prepare(image, spec)
        if image.shape != (spec.size, spec.size, 3) or image.dtype != np.uint8:
            raise ValueError(
                f"pixels must be uint8 [{spec.size}, {spec.size}, 3], got {image.dtype} {image.shape}"
            )
        return image

    def text(self, head: HeadConfig | str, text: str, pair: str | None = None) -> npt.NDArray[np.int32]:
        """A text, or a pair of texts, as token ids.

        Raises:
            TextTooLongError: more than the head's `max_text` tokens, special tokens included.
        """
        head = self._head(head)
        if head.max_text == 0:
            raise InputError(f"head {head.name!r} ({head.task}) takes no text")
        if pair is not None and head.task != "text_classification":
            raise InputError(f"head {head.name!r} ({head.task}) takes no second text")
        num_characters = len(text) + len(pair or "")
        if num_characters > head.max_text * MAX_CHARACTERS_PER_TOKEN:
            raise TextTooLongError(
                f"the text has {num_characters} characters; head {head.name!r} takes at most "
                f"{head.max_text} tokens"
            )
        ids = self.tokenizer.encode(text, pair)
        if len(ids) > head.max_text:
            raise TextTooLongError(
                f"the text has {len(ids)} tokens; head {head.name!r} takes at most {head.max_text}"
            )
        return ids

    def example(
        self,
        head_name: str,
        *,
        image: Image.Image | npt.NDArray[np.uint8] | None = None,
        text: str | None = None,
        text_pair: str | None = None,
    ) -> Example:
        """Check that the head takes this combination of inputs, and prepare what is not prepared.

        Raises:
            InputError: an input is missing or not wanted, or the text is too long.
            KeyError: no such head.
        """
        head = self.config.head(head_name)
        _check_inputs(head, image is not None, text is not None, text_pair is not None)
        return Example(
            image=None if image is None else self.image(head, image),
            tokens=None if text is None else self.text(head, text, text_pair),
        )

    def _head(self, head: HeadConfig | str) -> HeadConfig:
        return self.config.head(head) if isinstance(head, str) else head


def _check_inputs(head: HeadConfig, image: bool, text: bool, pair: bool) -> None:
    wants = {
        "vqa": "an image and a text",
        "image_classification": "an image and no text",
        "text_classification": "a text, or a text and a second text, and no image",
        "contrastive": "either an image or a text",
    }
    fits = {
        "vqa": image and text and not pair,
        "image_classification": image and not text and not pair,
        "text_classification": text and not image,
        "contrastive": image != text and not pair,
    }
    if not fits[head.task]:
        given = [
            name for name, is_there in (("image", image), ("text", text), ("text_pair", pair)) if is_there
        ]
        raise InputError(
            f"head {head.name!r} ({head.task}) takes {wants[head.task]}, got {', '.join(given) or 'nothing'}"
        )
