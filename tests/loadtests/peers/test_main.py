"""Pieces of a run: what is there is not measured again, and the table is made of the file."""

from peers.main import main
from peers.results import Figures, Results, Trial

FIGURES = Figures(2.0, 300.0, 8.0, 12.0, 250.0, 120.0, 180.0, 0, 4.0, 0.3, 10.0, 20.0, 1.0, [200.0, 190.0])


def test_a_table_needs_no_server(tmp_path, capsys):
    results = Results(capacity=250.0)
    results.add(Trial(0, "mosec", "0.9.8", FIGURES))
    results.write(tmp_path / "results.json")
    assert main(["--out", str(tmp_path), "--table"]) == 0
    told = capsys.readouterr().out
    assert "| Mosec 0.9.8 | " in told
    assert (tmp_path / "table.md").read_text() + "\n" == told


def test_a_server_that_is_not_installed_is_told_in_the_table(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--only", "vllm", "--capacity", "100", "--rounds", "1"]
    assert main([*arguments, "--vllm-python", str(tmp_path / "none")]) == 0
    assert "- vllm: not installed: " in capsys.readouterr().out
    assert Results.read(tmp_path / "results.json").trials == []


def test_what_was_measured_is_not_measured_again(tmp_path, capsys):
    results = Results(capacity=250.0)
    results.add(Trial(0, "mosec", "0.9.8", FIGURES))
    results.write(tmp_path / "results.json")
    # with this cache it could not be
    assert (
        main(["--out", str(tmp_path), "--only", "mosec", "--rounds", "1", "--environments", "/dev/null"]) == 0
    )
    assert "round 0" not in capsys.readouterr().out
