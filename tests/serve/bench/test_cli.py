"""The command, over the demo checkpoint; its numbers are the machine's and are not looked at."""

import json

import pytest

from vlmoe_serve.bench.cli import run

KEYS = {
    "case",
    "dtype",
    "threads",
    "ms",
    "moe_over_dense",
    "stock_over_ours",
    "roofline_ms",
    "peak_mb",
}


def bench(*argv):
    return run([*argv, "--threads", "1", "--seconds", "0.01"])


def test_a_checkpoint(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert bench("demo", "--case", "image1", "text32", "--dtype", "fp32", "--json", str(file)) == 0
    rows = json.loads(file.read_text())
    assert [(row["case"], row["dtype"], row["threads"]) for row in rows] == [
        ("image1", "fp32", 1),
        ("text32", "fp32", 1),
    ]
    for row in rows:
        assert row.keys() >= KEYS
        assert list(row["ms"]) == ["moe", "dense", "stock_moe", "stock_dense"]
        assert min(*row["ms"].values(), row["roofline_ms"], row["peak_mb"]) > 0
        assert row["moe_over_dense"] == pytest.approx(row["ms"]["moe"] / row["ms"]["dense"], rel=0.01)
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0].startswith("demo, torch ")
    assert [each.split()[0] for each in lines[1:4]] == ["case", "image1", "text32"]
    assert "GFLOP/s" in lines[4]


def test_numbers_of_experts_and_more_columns(tmp_path):
    file = tmp_path / "rows.json"
    arguments = ("--case", "image1", "--dtype", "fp32", "--more", "--routing", "own")
    assert bench("demo", *arguments, "--experts", "2", "8", "--json", str(file)) == 0
    rows = json.loads(file.read_text())
    assert [row["experts"] for row in rows] == [2, 8]
    assert all(row["ms"].keys() >= {"loop", "padded"} for row in rows)


def test_operations_instead_of_columns(capsys):
    assert bench("demo", "--case", "image1", "--dtype", "fp32", "--operations") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["image1", "fp32", "MoE", "dense", "more"]
    assert "MoE/dense" in lines[-1]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["demo", "--case", "image9"], "argument --case: invalid choice: 'image9'"),
        (["demo", "--threads", "0"], "must be at least 1, got 0"),
        (["demo", "--dtype", "fp8"], "invalid choice: 'fp8'"),
        (["demo", "--experts", "9999"], "num_experts must be in [1, 4096], got 9999"),
        ([], "the following arguments are required: model"),
    ],
)
def test_bad_usage_is_one_line(argv, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(argv)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("vlmoe bench: ")
    assert words in said


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert bench(str(tmp_path / "none")) == 1
    said = capsys.readouterr().err
    assert said.startswith("vlmoe bench: ")
    assert "none" in said
    assert said.count("\n") == 1
