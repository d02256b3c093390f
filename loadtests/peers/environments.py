"""A virtual environment for each system, made once and kept: no system sees another's packages.

    requirements -> CACHE/NAME-HASH/ (torch first and alone, so that no resolver picks another build)

Our model's code is not installed there; the programs find it by PYTHONPATH, and need only what it imports.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_TORCH = "torch==2.13.0"
# what `model/` and `kernels/` import
MODEL_REQUIREMENTS = ("numpy>=1.26", "safetensors>=0.5", "tokenizers>=0.21", "pillow>=11")
_DONE = "installed"
CPU_CHECK = """import sys, torch
sys.exit(torch.version.cuda and f"torch {torch.__version__} is a build for GPUs: see --torch")
"""


class EnvironmentFailed(RuntimeError):
    """An environment cannot be made, with the reason in one line."""


class NotInstalled(RuntimeError):
    """A server that we do not install ourselves is not here, with what to do in one line."""


def default_cache() -> Path:
    """Where environments are kept: below the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmoe" / "peers"


@dataclass(frozen=True, slots=True)
class Environments:
    """All of them.

    cache: where they lie. torch: what pip is told to install, e.g. with an index of CPU builds. given: interpreters by
    the names of servers that are too large to be installed unasked.
    """

    cache: Path
    torch: str = DEFAULT_TORCH
    given: Mapping[str, Path] = field(default_factory=dict)

    def path(self, name: str, requirements: Sequence[str]) -> Path:
        """Where an environment lies, made or not: another torch, Python or requirement is another one."""
        told = "\n".join([sys.version, self.torch, *MODEL_REQUIREMENTS, *requirements])
        return self.cache / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"

    def python(self, name: str, requirements: Sequence[str]) -> Path:
        """The interpreter of an environment, which is made if it is not there.

        Raises:
            EnvironmentFailed: pip says no, or brings a torch for GPUs, which would not be the same model's speed.
            NotInstalled: nothing may be installed (no requirements), and no interpreter was given.
        """
        if not requirements:
            if name not in self.given:
                raise NotInstalled(f"not installed: name an interpreter that has it with --{name}-python")
            return self.given[name]
        path = self.path(name, requirements)
        python = path / "bin" / "python"
        if (path / _DONE).exists():
            return python
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(path)])
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        _run([*pip, *self.torch.split()])
        _run([str(python), "-c", CPU_CHECK])
        version = _run([str(python), "-c", "import torch; print(torch.__version__)"]).strip()
        fixed = path / "constraints.txt"
        fixed.write_text(f"torch=={version}\n")
        _run([*pip, "--constraint", str(fixed), *MODEL_REQUIREMENTS, *requirements])
        (path / _DONE).touch()
        return python


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise EnvironmentFailed(f"{' '.join(command[-4:])}: {lines[-1]}")
    return done.stdout
