"""One small trace for all tests of placement."""

import pytest

from vlmoe_serve.placement.load import Load, StepLoad, at_ranks
from vlmoe_serve.placement.synthetic import Synthetic, synthetic_load


@pytest.fixture(scope="session")
def small_load() -> Load:
    return synthetic_load(
        Synthetic(num_steps=36, tokens_per_step=3000, num_layers=2, num_experts=8, skew=1.2)
    )


@pytest.fixture(scope="session")
def small_steps(small_load: Load) -> StepLoad:
    return at_ranks(small_load, 4)
