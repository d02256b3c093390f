"""Write the software bill of materials of the CPU image's Python packages, as CycloneDX 1.6.

    python deploy/sbom.py dist/sbom.json

It says what deploy/docker/requirements.txt and the Dockerfile pin; the base image has a list of its own.
"""

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PIN = re.compile(r"([A-Za-z0-9.-]+)==(\S+)(?: --hash=sha256:([0-9a-f]{64}))?")


def bill() -> dict[str, Any]:
    """The bill, the same for the same files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    lines = (HERE / "docker" / "requirements.txt").read_text().splitlines()
    torch = re.search(r"torch==[0-9.]+", (HERE / "docker" / "Dockerfile").read_text())
    assert torch is not None
    pins = sorted(match.groups() for line in [*lines, torch[0]] if (match := _PIN.fullmatch(line)))
    components = [_component(name, version, sha256) for name, version, sha256 in pins]
    own = _component(project["name"], project["version"], None) | {
        "licenses": [{"license": {"id": project["license"]}}]
    }
    content = json.dumps([own, components], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": own["bom-ref"], "dependsOn": [each["bom-ref"] for each in components]}],
    }


def _component(name: str, version: str, sha256: str | None) -> dict[str, Any]:
    url = f"pkg:pypi/{name.lower()}@{version}"
    hashes = {} if sha256 is None else {"hashes": [{"alg": "SHA-256", "content": sha256}]}
    return {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url, **hashes}


def main() -> None:
    """Write where the command line says."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill(), indent=2) + "\n")


if __name__ == "__main__":
    main()
