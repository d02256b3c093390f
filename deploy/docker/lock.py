"""Write down what the images install: every package that the server needs beside torch, each file by its checksum.

    python deploy/docker/lock.py        writes requirements.txt and requirements-build.txt

To be run with the Python version of the images on Linux: the files are those of that version and this processor.
torch comes alone, from an index of its own, and brings its own libraries for GPUs.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
_BUILD = ["hatchling==1.27.0"]
# torch itself, and what only its builds for GPUs bring
_TORCHS = ("torch", "triton", "nvidia-", "cuda-")


def locked(requirements: list[str]) -> str:
    """The lines of a requirements file for pip's mode with checksums."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed")]
        subprocess.run([*command, "--report", report.name, *requirements], check=True)
        found = json.loads(Path(report.name).read_text())["install"]
    lines = {}
    for each in found:
        name, version = each["metadata"]["name"].lower().replace("_", "-"), each["metadata"]["version"]
        if not name.startswith(_TORCHS):
            sha256 = each["download_info"]["archive_info"]["hashes"]["sha256"]
            lines[name] = f"{name}=={version} --hash=sha256:{sha256}\n"
    return "".join(lines[name] for name in sorted(lines))


def main() -> None:
    """Write both files."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["model"], *extras["serve"], *extras["otel"]]
    head = "# Made by `make lock`: {}.\n"
    server = locked([each for each in wanted if not each.startswith("vlmoe[")])
    (HERE / "requirements.txt").write_text(head.format("what the server needs beside torch") + server)
    (HERE / "requirements-build.txt").write_text(head.format("what builds the wheel") + locked(_BUILD))


if __name__ == "__main__":
    main()
