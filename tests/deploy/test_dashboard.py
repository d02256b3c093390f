"""The dashboard: as its script writes it, and laid out without overlap."""

import json
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
FILE = DEPLOY / "helm" / "vlmoe" / "files" / "dashboard.json"


def test_the_file_is_what_the_script_writes():
    checked = subprocess.run([sys.executable, DEPLOY / "dashboard", "--check"])
    assert checked.returncode == 0, "run python deploy/dashboard"


def test_panels_have_numbers_of_their_own_and_do_not_overlap():
    panels = json.loads(FILE.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_every_panel_asks_something_of_the_chosen_job():
    panels = [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]
    assert len(panels) >= 20
    for panel in panels:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert 'job=~"$job",namespace=~"$namespace"' in target["expr"]
