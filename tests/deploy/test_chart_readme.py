"""The chart's README: as its script writes it, with every value."""

from pathlib import Path

import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe"


def test_the_page_is_what_the_script_writes(load):
    script = load(CHART.parent / "readme.py")
    assert (CHART / "README.md").read_text() == script.readme(), "run python deploy/helm/readme.py"


def test_every_value_is_on_the_page():
    page = (CHART / "README.md").read_text()

    def check(values, path):
        for key, value in values.items():
            whole = f"{path}.{key}".lstrip(".")
            if f"| `{whole}` |" not in page:
                assert isinstance(value, dict), whole
                assert value, whole
                check(value, whole)

    check(yaml.safe_load((CHART / "values.yaml").read_text()), "")
