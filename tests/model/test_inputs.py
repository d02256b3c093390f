import numpy as np
import pytest

from vlmoe_model.inputs import Example, Job


def test_an_example_needs_something() -> None:
    with pytest.raises(ValueError, match="an image, a text, or both"):
        Example()


@pytest.mark.parametrize(
    ("size", "num_text", "expected"), [(8, None, (5, 0)), (None, 3, (0, 3)), (16, 7, (17, 7)), (4, 2, (2, 2))]
)
def test_tokens_are_patches_with_their_cls_and_text(
    size: int | None, num_text: int | None, expected: tuple[int, int]
) -> None:
    example = Example(
        image=None if size is None else np.zeros((size, size, 3), np.uint8),
        tokens=None if num_text is None else np.zeros(num_text, np.int32),
    )
    assert Job("any", example).num_tokens(patch_size=4) == expected
