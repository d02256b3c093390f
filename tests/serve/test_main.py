import logging

import pytest

from vlmoe_serve.main import run


@pytest.fixture(autouse=True)
def _logs_as_before():
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, root.level = before[0], before[1]


def one_line(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("vlmoe serve: ")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("argv", "environ", "says"),
    [
        (["--nonsense"], {}, "--nonsense"),
        (["--port", "no"], {}, "--port"),
        ([], {"VLMOE_SERVE_NONSENSE": "1"}, "VLMOE_SERVE_NONSENSE"),
        (["--config", "/does/not/exist.yaml"], {}, "/does/not/exist.yaml"),
        (["--api-key-file", "/does/not/exist"], {}, "/does/not/exist"),
        (["--placement", "linear"], {}, "--placement needs --ranks"),
        (["--expert-memory-mb", "9", "--ranks", "2"], {}, "--expert-memory-mb is for one rank"),
        (["--rebalance", "on"], {}, "--rebalance needs --ranks"),
    ],
)
def test_bad_usage_is_2_and_one_line(argv, environ, says, capsys, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert run(argv) == 2
    assert says in one_line(capsys)


def test_a_model_that_is_not_there_is_1_and_one_line(capsys, tmp_path):
    assert run(["--model", str(tmp_path / "none"), "--port", "0"]) == 1
    assert "none" in one_line(capsys)


def test_a_broken_config_names_its_file(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert run(["--model", str(tmp_path), "--port", "0"]) == 1
    assert "config.json" in one_line(capsys)


@pytest.mark.parametrize("asked", ["plannner", "planner"])
def test_a_placement_that_cannot_be_had_is_said_before_anything_is_loaded(asked, capsys):
    assert run(["--ranks", "2", "--placement", asked, "--port", "0"]) == 1
    assert asked in one_line(capsys)
