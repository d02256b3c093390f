import numpy as np
import pytest
from PIL import Image

from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import InputError, TextTooLongError
from vlmoe_model.images import prepare
from vlmoe_model.processor import Processor
from vlmoe_model.tokenizer import Tokenizer

PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture
def processor(config: ModelConfig, tokenizer: Tokenizer) -> Processor:
    return Processor(config, tokenizer)


def test_an_image_is_prepared_as_the_head_wants_it(processor: Processor, config: ModelConfig) -> None:
    head = config.head("questions")
    assert head.image is not None
    np.testing.assert_array_equal(processor.image("questions", PICTURE), prepare(PICTURE, head.image))
    np.testing.assert_array_equal(processor.image(head, PICTURE), processor.image("questions", PICTURE))


def test_prepared_pixels_are_taken_as_they_are(processor: Processor, config: ModelConfig) -> None:
    pixels = processor.image("questions", PICTURE)
    assert processor.example("questions", image=pixels, text="cats").image is pixels
    assert processor.image_spec("questions") == config.head("questions").image
    for wrong in (pixels[:4], pixels.astype(np.float32)):
        with pytest.raises(ValueError, match=r"must be uint8 \[8, 8, 3\]"):
            processor.image("questions", wrong)  # type: ignore[arg-type]


def test_a_text_is_encoded_by_the_tokenizer(processor: Processor, tokenizer: Tokenizer) -> None:
    np.testing.assert_array_equal(
        processor.text("entailment", "a circle", "two cats"), tokenizer.encode("a circle", "two cats")
    )


def test_example_holds_what_was_given(processor: Processor) -> None:
    both = processor.example("questions", image=PICTURE, text="is there a circle")
    assert both.image is not None
    assert both.image.shape == (8, 8, 3)
    assert both.tokens is not None
    assert both.tokens.tolist() == processor.text("questions", "is there a circle").tolist()
    assert processor.example("matching", text="cats").image is None
    assert processor.example("matching", image=PICTURE).tokens is None
    assert processor.example("shapes", image=PICTURE).tokens is None
    assert processor.example("entailment", text="cats", text_pair="two").image is None


@pytest.mark.parametrize(
    ("head", "given", "message"),
    [
        ("questions", {"image": PICTURE}, "takes an image and a text, got image"),
        ("questions", {"text": "cats"}, "takes an image and a text, got text"),
        ("questions", {"image": PICTURE, "text": "a", "text_pair": "b"}, "got image, text, text_pair"),
        ("shapes", {}, "takes an image and no text, got nothing"),
        ("shapes", {"image": PICTURE, "text": "a"}, "got image, text"),
        ("entailment", {"image": PICTURE, "text": "a"}, "and no image, got image, text"),
        ("entailment", {"text_pair": "a"}, "got text_pair"),
        ("matching", {"image": PICTURE, "text": "a"}, "either an image or a text, got image, text"),
        ("matching", {}, "got nothing"),
    ],
)
def test_wrong_inputs_are_refused(
    processor: Processor, head: str, given: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        processor.example(head, **given)  # type: ignore[arg-type]


def test_parts_that_a_head_does_not_take_are_refused(processor: Processor) -> None:
    with pytest.raises(InputError, match=r"'shapes' .* takes no text"):
        processor.text("shapes", "cats")
    with pytest.raises(InputError, match=r"'entailment' .* takes no image"):
        processor.image("entailment", PICTURE)
    with pytest.raises(InputError, match=r"'questions' .* takes no second text"):
        processor.text("questions", "cats", "dogs")


def test_the_longest_text_fits_and_one_more_token_does_not(processor: Processor) -> None:
    assert len(processor.text("matching", "a " * 6)) == 8
    with pytest.raises(TextTooLongError, match="has 9 tokens; head 'matching' takes at most 8"):
        processor.text("matching", "a " * 7)


def test_megabytes_of_text_are_refused_unread(processor: Processor) -> None:
    with pytest.raises(TextTooLongError, match="has 5000000 characters"):
        processor.text("matching", " " * 5_000_000)
    with pytest.raises(TextTooLongError, match="characters"):
        processor.text("entailment", "a", "b" * 5_000_000)


def test_an_unknown_head_is_a_key_error(processor: Processor) -> None:
    with pytest.raises(KeyError, match="no head 'colours'"):
        processor.example("colours", image=PICTURE)
