import dataclasses
from pathlib import Path

from vlmoe_serve import __version__
from vlmoe_serve.engine.base import EngineOptions, Rendezvous
from vlmoe_serve.engine.nodes.terms import difference, terms_of

WHERE = Rendezvous(2, 0, "127.0.0.1", 1)
OPTIONS = EngineOptions(Path("a"), dtype="bf16", threads=2, ranks=4, rendezvous=WHERE)


def test_equal_terms_do_not_differ_and_paths_are_none_of_them() -> None:
    other = dataclasses.replace(OPTIONS, path=Path("elsewhere"), trace_dir=Path("traces"))
    ours = terms_of(OPTIONS, WHERE, "m-1")
    assert difference(terms_of(other, dataclasses.replace(WHERE, node=1), "m-1"), ours) is None


def test_the_first_difference_is_named_with_both_values() -> None:
    ours = terms_of(OPTIONS, WHERE, "m-1")
    assert difference(terms_of(OPTIONS, WHERE, "m-2"), ours) == (
        "the checkpoint is m-2 there and m-1 on node 0"
    )
    other = dataclasses.replace(OPTIONS, dtype="fp32")
    assert difference(terms_of(other, WHERE, "m-1"), ours) == "--dtype is fp32 there and bf16 on node 0"
    assert difference({**ours, "the version": "9"}, ours) == (
        f"the version is 9 there and {__version__} on node 0"
    )


def test_terms_that_one_side_does_not_know_differ() -> None:
    ours = terms_of(OPTIONS, WHERE, "m-1")
    assert difference({}, ours) is not None
    assert difference({**ours, "--new": "1"}, ours) == "--new is 1 there and unknown on node 0"
