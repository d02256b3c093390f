from typing import get_args

from vlmoe_model.config import Stem
from vlmoe_model.stems import STEMS


def test_every_name_that_a_configuration_may_hold_is_in_the_table() -> None:
    assert set(get_args(Stem)) == set(STEMS)
