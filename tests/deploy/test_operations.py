"""docs/operations.md: what it names exists, and its commands do what it says."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import yaml

from vlmoe_serve.options import DEFAULTS, OPTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
CHART = ROOT / "deploy" / "helm" / "vlmoe"


def test_every_alert_has_a_section_and_every_section_an_alert():
    groups = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    assert re.findall(r"^### (Vlmoe\w+)$", PAGE, re.MULTILINE) == alerts


def test_every_option_exists_and_has_the_default_it_is_said_to_have():
    other_programs = {"--file", "--from-literal", "--tag", "--values", "--set"}
    named = set(re.findall(r"(--[a-z][a-z-]+)", PAGE)) - other_programs
    assert {name for name in named if name[2:].replace("-", "_") not in {*OPTIONS, "help"}} == set()
    for name, value in re.findall(r"`--([a-z-]+)` \((\d+)", PAGE):
        assert getattr(DEFAULTS, name.replace("-", "_")) == float(value), name


def test_every_value_of_the_chart_exists():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    groups = {key for key, value in values.items() if isinstance(value, dict) and value} | {"options"}
    for path in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)(?:=\w+)?`", PAGE):
        first, *rest = path.split(".")
        if first in groups - {"options"} and path != "collections.sqlite":
            found = values[first]
            for key in rest:
                assert key in found, path
                found = found[key]


def test_every_metric_exists():
    text = "".join(path.read_text() for path in (ROOT / "serve" / "vlmoe_serve").rglob("*.py"))
    for name in set(re.findall(r"\bvlmoe_[a-z_]+", PAGE)) - {"vlmoe_queue_seconds_quantile"}:
        assert re.sub(r"_(bucket|total)$", "", name) in text, name


def test_every_file_exists():
    for path in re.findall(r"\b((?:deploy|docs)/[\w./-]+\w)", PAGE):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_the_backup_of_a_running_server_holds_what_was_acknowledged(serve, tmp_path):
    server = serve()
    with httpx.Client(base_url=server.url, timeout=240) as client:
        client.put("/collections/gallery", json={}).raise_for_status()
        items = [{"id": "a", "text": "red"}, {"id": "b", "text": "blue"}]
        client.post("/collections/gallery/items", json={"items": items}).raise_for_status()
        (command,) = re.findall(r"python -c '(.+)'", PAGE)
        data = tmp_path / "data"
        subprocess.run([sys.executable, "-c", command.replace("/data", str(data))], check=True, timeout=240)
        client.delete("/collections/gallery").raise_for_status()
    server.process.terminate()
    assert server.process.wait(240) == 0
    with sqlite3.connect(data / "backup.sqlite") as backup:
        assert backup.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    backup.close()
    (data / "backup.sqlite").replace(data / "collections.sqlite")
    for suffix in ("-wal", "-shm"):
        (data / f"collections.sqlite{suffix}").unlink(missing_ok=True)
    restored = serve()
    listed = httpx.get(f"{restored.url}/collections/gallery/items", timeout=240).json()
    assert [item["id"] for item in listed["items"]] == ["a", "b"]
