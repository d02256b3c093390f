import pytest

from vlmoe_model import quantize
from vlmoe_model.arguments import Parser


def test_a_complaint_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="vlmoe thing")
    parser.add_argument("--size", choices=("one", "two"))
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--size", "three"])
    assert caught.value.code == 2
    found = capsys.readouterr().err
    assert found.startswith("vlmoe thing: argument --size: invalid choice: 'three'")
    assert found.endswith("; see vlmoe thing --help\n")
    assert found.count("\n") == 1


def test_quantize_complains_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        quantize.run(["a", "b", "--experts", "int4"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
