from typing import get_args

from vlmoe_model.config import AuxLoss, Router
from vlmoe_model.routing import AUX_LOSSES, ROUTERS


def test_every_name_that_a_configuration_may_hold_is_in_the_tables() -> None:
    assert set(get_args(Router)) == set(ROUTERS)
    assert set(get_args(AuxLoss)) == set(AUX_LOSSES) | {"none"}
