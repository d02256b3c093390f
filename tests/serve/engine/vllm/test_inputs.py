from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Example, Job

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm"
    ),
]
TOKENS = np.array([2, 7, 3], np.int32)


@pytest.fixture
def requests(mixture: Any) -> Any:
    from vlmoe_serve.engine.vllm.inputs import Requests

    return Requests(mixture)


def picture(side: int) -> np.ndarray:
    return np.zeros((side, side, 3), np.uint8)


def test_a_text_is_its_tokens(requests: Any) -> None:
    ((prompt, params),) = requests.of([Job("tones", Example(tokens=TOKENS))])
    assert (prompt["type"], prompt["prompt_token_ids"]) == ("token", [2, 7, 3])
    assert params.extra_kwargs == {"head": "tones", "num_text": 3, "num_image": 0}


def test_a_pair_is_its_text_and_then_its_image(requests: Any) -> None:
    ((prompt, params),) = requests.of([Job("questions", Example(picture(24), TOKENS))])
    (place,) = prompt["mm_placeholders"]["image"]
    assert (place.offset, place.length, len(prompt["prompt_token_ids"])) == (3, 10, 13)
    assert params.extra_kwargs == {"head": "questions", "num_text": 3, "num_image": 10}
    (item,) = prompt["mm_kwargs"]["image"]
    assert item["pixels"].data.shape == (24, 24, 3)


def names(requests: Any, jobs: list[Job]) -> list[str]:
    return [prompt["mm_hashes"]["image"][0] for prompt, _ in requests.of(jobs)]


def test_one_picture_is_known_again_within_its_batch_alone(requests: Any) -> None:
    shared = picture(24)
    jobs = [Job("questions", Example(shared, TOKENS)), Job("colours", Example(shared))]
    first, second = names(requests, jobs), names(requests, jobs)
    assert first[0] == first[1]
    assert second[0] == second[1] != first[0]
    # what is normalised in another way is another picture
    small = picture(16)
    other = names(requests, [Job("shapes", Example(small)), Job("questions", Example(shared, TOKENS))])
    assert other[0] != other[1]


def test_pixels_are_copied(requests: Any) -> None:
    image = picture(24)
    ((prompt, _),) = requests.of([Job("colours", Example(image))])
    image[:] = 9
    assert not prompt["mm_kwargs"]["image"][0]["pixels"].data.any()


@pytest.mark.parametrize(
    ("head", "example"),
    [
        ("questions", Example(tokens=TOKENS)),
        ("questions", Example(picture(24))),
        ("shapes", Example(picture(24))),
        ("tones", Example(picture(24))),
        ("matching", Example(picture(16), TOKENS)),
    ],
)
def test_what_a_head_does_not_take_is_refused(requests: Any, head: str, example: Example) -> None:
    with pytest.raises(InputError, match=head):
        requests.of([Job(head, example)])
