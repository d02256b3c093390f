import re

import pytest

from vlmoe_kernels import BACKENDS, backend

OPERATIONS = ("linear", "grouped_linear", "grouped_ffn", "attention")


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_offers_every_operation(name: str) -> None:
    assert all(callable(getattr(backend(name), operation)) for operation in OPERATIONS)


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=re.escape(f"one of {', '.join(BACKENDS)}, got 'cuda'")):
        backend("cuda")
