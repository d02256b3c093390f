import pytest

from vlmoe_serve.engine.base import Rendezvous
from vlmoe_serve.main import run
from vlmoe_serve.nodes import rendezvous_of
from vlmoe_serve.option_sources import UsageError, parse_options

TOGETHER = ["--nodes", "2", "--ranks", "4", "--rendezvous"]


def test_one_node_meets_nobody() -> None:
    assert rendezvous_of(parse_options([], {})) is None


@pytest.mark.parametrize(
    ("given", "host"),
    [("Node-0.example", "node-0.example"), ("10.0.0.1", "10.0.0.1"), ("[fd00::1]", "fd00::1")],
)
def test_several_nodes_meet_at_an_address(given: str, host: str) -> None:
    options = parse_options([*TOGETHER, f"{given}:29500", "--node-rank", "1"], {})
    assert rendezvous_of(options) == Rendezvous(2, 1, host, 29500)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rendezvous", "a:1"], "need --nodes"),
        (["--node-rank", "1"], "need --nodes"),
        (["--rendezvous-key-file", "k"], "need --nodes"),
        (["--nodes", "2", "--ranks", "2"], "needs --rendezvous HOST:PORT"),
        ([*TOGETHER, "a:1", "--node-rank", "2"], "from 0 to 1, got 2"),
        ([*TOGETHER, "a:1", "--ranks", "3"], "--ranks 3 cannot be shared equally by --nodes 2"),
        (["--nodes", "2", "--rendezvous", "a:1"], "--ranks 1 cannot be shared equally"),
        ([*TOGETHER, "a:1", "--model", "a=1", "b=2"], "one model is served"),
        ([*TOGETHER, "a:1", "--model-root", "m"], "no other is loaded"),
        ([*TOGETHER, "a:1", "--engine", "vllm"], "vllm has ways of its own"),
    ],
)
def test_what_does_not_go_together_is_bad_usage(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as error:
        rendezvous_of(parse_options(arguments, {}))
    assert says in str(error.value)
    assert run(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:65536", "a b:1", "http://a:1", "fd00::1"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--rendezvous: must be HOST:PORT"):
        parse_options(["--rendezvous", text], {})


def test_threads_are_shared_by_the_ranks_of_a_node() -> None:
    alone = parse_options(["--ranks", "2"], {}).threads
    assert parse_options(["--ranks", "4", "--nodes", "2"], {}).threads == alone
