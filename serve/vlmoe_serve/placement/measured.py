"""Constants measured on this machine, once for every model's sizes, and kept.

    Sizes, device -> kept in the user's cache directory? -> or else (engine/measuring.py, some seconds) -> kept -> Costs

The measuring runs in a process of its own: whoever asks need not have torch, and nothing of it stays in memory.
"""

import dataclasses
import datetime
import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from vlmoe_serve import __version__
from vlmoe_serve.placement.costs import Costs, CostsError, parse_costs, read_costs
from vlmoe_serve.placement.machines import Sizes

_PROGRAM = "vlmoe_serve.engine.measuring"
# the GPU's kernels may have to be compiled first
_PATIENCE_S = 300.0
_MISSING = {"near_us": "the link between devices", "far_us": "the link between hosts"}

_log = logging.getLogger(__name__)


def kept_costs(device: str, sizes: Sizes) -> Costs:
    """As `measure_costs`, or what it found before on a machine of this name.

    Raises:
        CostsError: it could not be measured; one line.
    """
    path = _cache() / f"{_key(device, sizes)}.json"
    try:
        return read_costs(path)
    except CostsError:
        pass
    _log.info("measuring what a step costs on this machine, once for experts of these sizes")
    costs = measure_costs(device, sizes)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # whole or not at all, also for a process that reads at the same time
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(costs.to_json(), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        _log.warning("what was measured cannot be kept in %s: %s", path.parent, error.strerror or error)
    return costs


def measure_costs(device: str, sizes: Sizes) -> Costs:
    """Constants of this machine.

    Args:
        device: cpu, cuda, or auto.
        sizes: of the model.

    Raises:
        CostsError: it could not be measured; one line.
    """
    question = json.dumps({"device": device, "sizes": asdict(sizes)})
    try:
        done = _started([sys.executable, "-P", "-m", _PROGRAM, question])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CostsError(f"measuring failed: {error}") from None
    if done.returncode:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        raise CostsError(f"measuring failed: {last.strip()}")
    found = json.loads(done.stdout)
    costs = parse_costs(found["costs"])
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    told = f"measured on {found['machine']} with {found['kernels']} on {day}, {sizes}"
    missing = [_MISSING[name] for name in found["missing"]]
    return dataclasses.replace(costs, origin=f"{told}; by name, not measured: {', '.join(missing)}")


def _started(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlmoe" / "costs"


def _key(device: str, sizes: Sizes) -> str:
    """Of what is measured and on what; another host that shares the directory is another one."""
    what = [__version__, device, asdict(sizes), os.environ.get("CUDA_VISIBLE_DEVICES"), _machine()]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def _machine() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    processor = next((line for line in lines if line.startswith("model name")), "")
    return [os.uname().nodename, processor, str(os.cpu_count())]
