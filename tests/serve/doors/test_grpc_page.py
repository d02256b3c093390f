"""Runs every block of docs/grpc.md, in order, as a reader would."""

import re
import subprocess
import sys
from pathlib import Path

from ..waiting import PATIENCE_S

PAGE = (Path(__file__).parents[3] / "docs" / "grpc.md").read_text()


def test_the_python_blocks_run(server, png, tmp_path):
    for name in ("shoe", "cat"):
        (tmp_path / f"{name}.png").write_bytes(png())
    found = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == 3
    script = "\n".join(found).replace("127.0.0.1:8001", server.grpc)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    positions = re.findall(r"^(\d+) \w+$", done.stdout, re.MULTILINE)
    assert sorted(map(int, positions)) == list(range(20))
