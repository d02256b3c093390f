"""The chart over a matrix of values: lint, the API's own schemas, those of custom resources, snapshots."""

import json
import os
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe"
SCHEMAS = Path(__file__).parent / "schemas"
SNAPSHOTS = Path(__file__).parent / "snapshots"
CASES = sorted(path.name for path in (*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")))
# the oldest that the chart admits is older than the schemas that come in the package; both ends of those are taken
VERSIONS = ("1.27", "1.37")

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("case", CASES)
def test_lint_is_strict(helm, case):
    values = next(path for path in (CHART / "ci" / case, CHART / case) if path.is_file())
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_the_api_takes(render, case):
    # neither is there where only the other tests run
    import jsonschema
    import kubernetes_validate

    for name, each in render(case).items():
        own = SCHEMAS / f"{each['kind']}.json"
        if own.is_file():
            jsonschema.validate(each, json.loads(own.read_text()))
            if each["kind"] != "LeaderWorkerSet":
                continue
            # its schema leaves the pod to the API's own
            each = {
                "apiVersion": "v1",
                "kind": "PodTemplate",
                "metadata": {"name": "pod"},
                "template": each["spec"]["leaderWorkerTemplate"]["workerTemplate"],
            }
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.SchemaNotFoundError:
                pytest.fail(f"{name}: no schema; write {own.name}")


@pytest.mark.parametrize("case", CASES)
def test_as_it_was(render, case):
    """Set DEPLOY_SNAPSHOTS=write to write down what the chart renders now, and read the difference."""
    text = yaml.safe_dump_all(render(case).values(), sort_keys=False, width=110)
    text = yaml.safe_dump_all(_without_files(yaml.safe_load_all(text)), sort_keys=False, width=110)
    path = SNAPSHOTS / case
    if os.environ.get("DEPLOY_SNAPSHOTS") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_no_snapshot_is_left_over():
    assert sorted(path.name for path in SNAPSHOTS.iterdir()) == CASES


@pytest.mark.parametrize("schema", sorted(SCHEMAS.iterdir()), ids=lambda path: path.stem)
def test_a_schema_refuses_what_is_misspelt(render, schema):
    import jsonschema

    kind = schema.stem
    found = [each for case in CASES for each in render(case).values() if each["kind"] == kind]
    assert found, f"no values file renders a {kind}"
    found[0]["spec"]["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        jsonschema.validate(found[0], json.loads(schema.read_text()))


def _without_files(objects):
    """Whole files of the chart inside an object are named, not repeated."""
    contents = {path.read_text().strip(): f"<files/{path.name}>" for path in (CHART / "files").iterdir()}

    def replaced(value):
        if isinstance(value, dict):
            return {key: replaced(each) for key, each in value.items()}
        if isinstance(value, list):
            return [replaced(each) for each in value]
        return contents.get(value.strip(), value) if isinstance(value, str) else value

    return [replaced(each) for each in objects]
