"""A real Prometheus scrapes the real server under load; every panel and every rule finds what it asks for."""

import base64
import contextlib
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

FILES = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe" / "files"
WINDOW = "60s"

pytestmark = pytest.mark.deploy


def picture(number):
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (number * 40 % 256, number * 90 % 256, number * 10 % 256)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def ask_for_a_while(url, end):
    """Traffic of every kind: pictures seen and unseen, an unknown route, callers that leave or cannot wait."""
    with httpx.Client(base_url=url, timeout=60) as client:
        client.put("/collections/gallery", json={})
        items = [{"id": str(i), "image": picture(i)} for i in range(4)]
        client.post("/collections/gallery/items", json={"items": items})
        number = 0
        while not end.is_set():
            number += 1
            image = picture(number % 5)
            client.post("/vqa", json={"image": image, "question": f"what color is {number}?"})
            client.post("/classify", json={"image": image, "head": "fashion"})
            client.post("/embed", json={"image": image})
            client.post("/retrieve", json={"collection": "gallery", "text": "red"})
            client.post("/vqa", json={"image": image})
            with contextlib.suppress(httpx.TimeoutException):
                client.post(
                    "/embed", json={"inputs": [{"text": f"{number} {i}"} for i in range(64)]}, timeout=0.01
                )


def engine_of(server_pid):
    children = Path(f"/proc/{server_pid}/task/{server_pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.fixture
def prometheus(tool, tmp_path):
    """Start Prometheus on these targets, with our rules; a function that asks it."""
    with contextlib.ExitStack() as stack:

        def start(target):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{free.getsockname()[1]}"
            config = {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(FILES / "recording.yaml"), str(FILES / "alerts.yaml")],
                "scrape_configs": [
                    {
                        "job_name": "vlmoe",
                        "static_configs": [{"targets": [target], "labels": {"namespace": "serving"}}],
                    }
                ],
            }
            (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
            log = stack.enter_context((tmp_path / "prometheus.log").open("wb"))
            process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={tmp_path / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )
            stack.callback(lambda: (process.terminate(), process.wait(30)))
            client = stack.enter_context(httpx.Client(base_url=f"http://{address}/api/v1", timeout=30))
            give_up_s = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/status/runtimeinfo").status_code == 200:
                        return client
                assert process.poll() is None, (tmp_path / "prometheus.log").read_text()
                assert time.monotonic() < give_up_s
                time.sleep(0.1)

        yield start


def numbers(client, query):
    answer = client.get("/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    return [float(each["value"][1]) for each in answer["data"]["result"]]


def without_number(client, asked):
    return {name for name, query in asked.items() if not any(map(math.isfinite, numbers(client, query)))}


def test_every_panel_and_every_rule_finds_data(serve, prometheus, render):
    # one panel is of servers that can brown out
    server = serve("--brownout", "on", "--capacity", "1")
    client = prometheus(server.url.removeprefix("http://"))
    end = threading.Event()
    callers = [threading.Thread(target=ask_for_a_while, args=(server.url, end)) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(3)
        os.kill(engine_of(server.process.pid), signal.SIGKILL)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as garbled:
            garbled.sendall(b"this is no HTTP\r\n\r\n")
            garbled.recv(1024)
        asked = {}
        for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", WINDOW)
                query = query.replace("$job", "vlmoe").replace("$namespace", ".*").replace("$layer", ".*")
                assert "$" not in query
                asked[f"{panel['title']}: {target['legendFormat']}"] = query
        for group in yaml.safe_load((FILES / "recording.yaml").read_text())["groups"]:
            # nobody was refused, so there is no share of them
            asked |= {
                rule["record"]: rule["record"] for rule in group["rules"] if "refused" not in rule["record"]
            }
        trigger = render("keda.yaml")["ScaledObject/r1-vlmoe"]["spec"]["triggers"][0]["metadata"]["query"]
        asked["KEDA"] = trigger.replace('job="r1-vlmoe"', 'job="vlmoe"')
        give_up_s = time.monotonic() + 90
        while (missing := without_number(client, asked)) and time.monotonic() < give_up_s:
            time.sleep(1)
        assert missing == set()
    finally:
        end.set()
        for caller in callers:
            caller.join()
    rules = [rule for group in client.get("/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}


def test_legends_name_labels_that_the_answers_have():
    for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                by = re.findall(r"by \(([\w, ]+)\)", target["expr"])
                assert not by or any(label in re.split(r"[, ]+", each) for each in by), panel["title"]
