"""Recording rules and alerts, by Prometheus's own tool."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "helm" / "vlmoe" / "files"
CASES = Path(__file__).with_name("rules_test.yaml")


def alerts():
    groups = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.deploy
def test_rules_fire_when_they_should(tool, tmp_path):
    file = tmp_path / "rules_test.yaml"
    text = CASES.read_text()
    for word, name in (("RECORDING", "recording.yaml"), ("ALERTS", "alerts.yaml")):
        text = text.replace(word, str(FILES / name))
    file.write_text(text)
    done = subprocess.run(
        [tool("promtool"), "test", "rules", file], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    names = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_every_series_is_of_the_release():
    for name in ("recording.yaml", "alerts.yaml"):
        for group in yaml.safe_load((FILES / name).read_text())["groups"]:
            for rule in group["rules"]:
                found = re.findall(r"\b((?:vlmoe[_:][a-z_:0-9]+|up\b))(\{[^}]*)?", rule["expr"])
                assert found
                assert all(after.startswith('{job="vlmoe"') for _, after in found), rule
