import base64
import io
import json
import random

import pytest
from PIL import Image

from vlmoe_loadtests.mixes import MIXES, Ask, asks, picture, words


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_a_mix_is_whole_requests_and_the_same_for_the_same_seed(mix):
    wanted = asks(mix, 3)
    assert wanted == asks(mix, 3)
    assert wanted != asks(mix, 4)
    assert len({ask.body for ask in wanted}) > 0.9 * len(wanted)
    for ask in wanted:
        body = json.loads(ask.body)
        assert ask.path in ("/vqa", "/classify", "/embed")
        assert ask.num_inputs == len(body.get("inputs", [body]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_is_of_its_size_and_kind(kind):
    image = Image.open(io.BytesIO(base64.b64decode(picture(random.Random(1), 160, kind))))
    assert (image.size, image.format) == ((160, 160), kind)


def test_texts_are_as_long_as_asked_and_short_ones_are_more_frequent():
    lengths = [len(words(random.Random(seed), 3, 24).split()) for seed in range(500)]
    assert min(lengths) == 3
    assert max(lengths) >= 22
    assert sorted(lengths)[250] < 12


def test_a_request_on_the_wire():
    ask = Ask("vqa", "/vqa", b"{}")
    assert ask.wire("here", {"x-priority": "batch"}) == (
        b"POST /vqa HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
        b"x-priority: batch\r\n\r\n{}"
    )
