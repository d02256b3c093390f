"""Schemathesis reads the OpenAPI document and asks everything that it allows and much that it does not."""

import subprocess
import sys

import pytest

# What it takes for a fault and is meant: base64 that is no picture is refused although it is a string, and of several
# inputs a wrong one fails alone, inside a 200.
EXCLUDED = "positive_data_acceptance,negative_data_rejection"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_error_of_ours_and_nothing_that_the_document_does_not_say(start, tmp_path, image, seed):
    server = start("--max-queue-ms", "600000")
    server.client.put("/collections/0", json={})
    server.client.post("/collections/0/items", json={"items": [{"id": "0", "image": image}]})
    arguments = [
        *("run", f"{server.url}/openapi.json", "--seed", str(seed), "--max-examples", "25"),
        *("--exclude-checks", EXCLUDED, "--suppress-health-check", "all", "--warnings", "off"),
        *("--no-color", "--continue-on-failure"),
        # a deadline of 1 ms is a 504 that was asked for
        *("-H", "x-request-timeout-ms: 60000"),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    report = "\n".join(line[:300] for line in run.stdout.splitlines())
    assert run.returncode == 0, report + run.stderr
    # it has to have asked
    requests = sum(
        float(line.rsplit(" ", 1)[1])
        for line in server.client.get("/metrics").text.splitlines()
        if line.startswith("vlmoe_requests_total{")
    )
    assert requests > 500
    assert not server.tracebacks
    assert server.end() == 0
