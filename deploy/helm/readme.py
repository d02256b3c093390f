"""Write the chart's README from its values: every key, its default, and the lines above it.

python deploy/helm/readme.py            write README.md
python deploy/helm/readme.py --check    exit 1 when it is not what would be written
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "vlmoe"
_KEY = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):(.*)")
_HEAD = """# vlmoe chart

Installs `vlmoe serve` on Kubernetes {kube}. Needs an image of `deploy/docker/` in your registry.

```bash
helm install answers deploy/helm/vlmoe --set image.repository=registry.example.com/vlmoe
helm test answers
```

`values-cpu.yaml` and `values-gpu.yaml` beside this page are starting points for either; `ci/` holds the files that the
tests render. A misspelt value is refused. How to size, roll out, back up and secure it, and what every alert means:
[operations](../../../docs/operations.md).

This page is made from `values.yaml` by `python deploy/helm/readme.py`.

## Values

| value | default | what it is |
|---|---|---|
"""


def readme() -> str:
    """The whole page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    text = (CHART / "values.yaml").read_text()
    rows = [f"| `{key}` | {_shown(default)} | {said} |" for key, default, said in _values(text)]
    return _HEAD.format(kube=f"`{chart['kubeVersion']}`") + "\n".join(rows) + "\n"


def _values(text: str) -> list[tuple[str, Any, str]]:
    """(dotted key, default, description) of each value that is no mere group of others."""
    found: list[tuple[str, Any, str]] = []
    content = yaml.safe_load(text)
    path: list[str] = []
    said: list[str] = []
    whole_until = None
    for line in text.splitlines():
        match = _KEY.fullmatch(line)
        if line.lstrip().startswith("#"):
            said.append(line.strip("# "))
            continue
        if match is None:
            said = []
            continue
        depth = len(match[1]) // 2
        if whole_until is not None and depth > whole_until:
            said = []
            continue
        whole_until = None
        path = [*path[:depth], match[2]]
        value = content
        for key in path:
            value = value[key]
        if not isinstance(value, dict) or not value or said:
            found.append((".".join(path), value, " ".join(said)))
            whole_until = depth if isinstance(value, dict | list) else None
        said = []
    return found


def _shown(default: Any) -> str:
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`" if text not in ('""', "null") else "empty"


def main() -> int:
    """Write or check."""
    page = CHART / "README.md"
    if "--check" in sys.argv[1:]:
        return int(not page.is_file() or page.read_text() != readme())
    page.write_text(readme())
    return 0


if __name__ == "__main__":
    sys.exit(main())
