import json
import subprocess
import sys
from pathlib import Path

import pytest

from vlmoe_serve.placement import measured
from vlmoe_serve.placement.costs import Costs, CostsError
from vlmoe_serve.placement.machines import BASE
from vlmoe_serve.placement.measured import kept_costs, measure_costs

FOUND = Costs(token_us=7.0, origin="a stop watch")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vlmoe" / "costs"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices that were measured."""
    devices: list[str] = []

    def measure(device: str, sizes: object) -> Costs:
        devices.append(device)
        return FOUND

    monkeypatch.setattr(measured, "measure_costs", measure)
    return devices


def test_a_machine_is_measured_once_for_each_device(asked: list[str]) -> None:
    for device in ("cpu", "cpu", "cuda", "cuda", "cpu"):
        costs = kept_costs(device, BASE)
        assert (costs, costs.origin) == (FOUND, FOUND.origin)
    assert asked == ["cpu", "cuda"]


def test_what_was_kept_and_is_broken_is_measured_again(cache: Path, asked: list[str]) -> None:
    kept_costs("cpu", BASE)
    (file,) = cache.iterdir()
    file.write_text("{")
    assert kept_costs("cpu", BASE) == FOUND
    assert asked == ["cpu", "cpu"]
    assert kept_costs("cpu", BASE) == FOUND
    assert asked == ["cpu", "cpu"]


def test_where_nothing_can_be_kept_it_is_measured_all_the_same(
    tmp_path: Path, asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vlmoe").write_text("no directory")
    assert kept_costs("cpu", BASE) == FOUND
    assert "cannot be kept in" in caplog.text


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("import sys; sys.exit('no such device')", "measuring failed: no such device"),
        ("import sys; sys.exit(3)", "measuring failed: no message"),
    ],
)
def test_a_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, program: str, complaint: str) -> None:
    def start(command: list[str], **how: object) -> "subprocess.CompletedProcess[str]":
        assert json.loads(command[-1])["device"] == "cpu"
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    monkeypatch.setattr(measured, "_started", start)
    with pytest.raises(CostsError, match=f"^{complaint}$"):
        measure_costs("cpu", BASE)
