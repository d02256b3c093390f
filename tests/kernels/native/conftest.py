import pytest

from vlmoe_kernels.choice import why_not_native


@pytest.fixture
def native() -> None:
    """Tests that run the library; elsewhere there is the fallback, which has tests of its own."""
    if reason := why_not_native():
        pytest.skip(reason)
