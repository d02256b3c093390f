import re
from pathlib import Path

import pytest

from vlmoe_train.cli_data import listing, run
from vlmoe_train.data.sources import DATASETS, PACKAGES


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list"]) == 0
    shown = capsys.readouterr().out
    assert shown == listing() + "\n"
    for dataset in DATASETS.values():
        assert dataset.name in shown
        assert dataset.task in shown
    for package in PACKAGES.values():
        assert package.spec in shown
        assert package.licence in shown


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["fetch", "cifar"], 2, "vlmoe data: no data set 'cifar'; there are"),
        (["fetch", "demo", "--from", "."], 1, "vlmoe data: dataset-fashion-mnist_.*deb is not in"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.match(reason, captured.err)


def test_an_archive_with_another_checksum_is_refused(
    tmp_path: Path, packages: tuple[Path, object], capsys: pytest.CaptureFixture[str]
) -> None:
    # the tiny archives have the real ones' names but not their checksums
    assert run(["fetch", "demo", "--from", str(packages[0]), "--to", str(tmp_path)]) == 1
    assert "sha256 is" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
