"""Jobs of a tiny checkpoint."""

from collections.abc import Callable

import pytest

from vlmoe_model.inputs import Job

from ..tiny import jobs as jobs_of_tiny


@pytest.fixture
def jobs() -> Callable[[int], list[Job]]:
    return jobs_of_tiny
