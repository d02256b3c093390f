"""Runs every block of docs/protocols.md, as a reader would, against a server of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path

from ..waiting import PATIENCE_S

PAGE = (Path(__file__).parents[3] / "docs" / "protocols.md").read_text()


def test_the_blocks_run(start, checkpoint, png, tmp_path):
    server = start("--model", f"demo={checkpoint}")
    (tmp_path / "shoe.png").write_bytes(png())
    address = server.url.removeprefix("http://")
    printed = []
    found = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [language for language, _ in found] == ["python", "python", "bash"]
    for language, block in found:
        program = [sys.executable, "-W", "error::DeprecationWarning"] if language == "python" else ["bash"]
        done = subprocess.run(
            [*program, "-c", block.replace("127.0.0.1:8000", address)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert (done.returncode, done.stderr) == (0, "")
        printed.append(done.stdout)
    assert printed[0].startswith("similarity ")
    assert "[[" in printed[1]
    assert json.loads(printed[2])["outputs"][0]["shape"] == [2, 8]
    server.end()
