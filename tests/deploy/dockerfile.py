"""A Dockerfile without Docker: its steps in a root of their own, laid over this machine's, as far as root may.

Each stage's root is an overlay whose lowest layer is this machine, in which `python` is the one that runs the tests.
So what a step leaves behind is what the image would hold, but what it finds is more than the base image has.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_SETTINGS = ("PIP_", "SSL_", "REQUESTS_", "http_proxy", "https_proxy", "no_proxy")
_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = f"usr/local/lib/{_NAME}"


@dataclass
class Stage:
    """One FROM. upper: what its steps wrote."""

    name: str
    upper: Path
    variables: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    settings: dict[str, str] = field(default_factory=dict)


def instructions(text: str) -> list[tuple[str, str]]:
    """(word, rest) of each instruction, comments and line ends removed."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def words(rest: str) -> list[str]:
    """An instruction's command in its JSON form."""
    return list(json.loads(rest[rest.index("[") :]))


class Build:
    """Runs a Dockerfile's instructions in order."""

    def __init__(self, scratch: Path, context: Path, arguments: dict[str, str]) -> None:
        self._scratch = scratch
        self._context = context
        self._given = arguments
        self.stages: list[Stage] = []

    def run(self, text: str) -> Stage:
        """The last stage, all steps done; raises CalledProcessError with what a step printed."""
        for word, rest in instructions(text):
            getattr(self, f"_{word.lower()}", self._note)(rest)
            if word in ("USER", "CMD", "ENTRYPOINT", "HEALTHCHECK", "EXPOSE", "VOLUME", "STOPSIGNAL"):
                self.stages[-1].settings[word] = rest
        return self.stages[-1]

    def start(
        self, stage: Stage, command: list[str], *, variables: dict[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """A command as a container would run it: not root, nothing writable but /tmp and its volume."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self._inside(stage, command, {**stage.variables, **variables}, read_only=True),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"]},
            )

    def enter(
        self, stage: Stage, process: subprocess.Popen[bytes], command: list[str], variables: dict[str, str]
    ) -> int:
        """The exit code of another command in the container of a process that `start` has started."""
        user, group = stage.user.split(":")
        given = [f"{name}={value}" for name, value in (stage.variables | variables).items()]
        into = ["nsenter", "--target", str(process.pid), "--mount", "--root", "--wd=/tmp"]
        as_user = ["--setuid", user, "--setgid", group, "env", "-i"]
        return subprocess.run(
            [*into, *as_user, *given, *command], capture_output=True, timeout=240
        ).returncode

    def _note(self, rest: str) -> None:
        pass

    def _from(self, rest: str) -> None:
        name = rest.split(" AS ")[1] if " AS " in rest else f"stage{len(self.stages)}"
        upper = self._scratch / name
        programs, base = upper / "usr/local/bin", Path(sys.base_prefix)
        programs.mkdir(parents=True)
        (upper / _LIBRARY).mkdir(parents=True)
        shutil.copy2(Path(sys.executable).resolve(), programs / _NAME)
        for link in ("python", "python3"):
            (programs / link).symlink_to(_NAME)
        for shared in base.glob("lib/libpython*"):
            shutil.copy2(shared, upper / "usr/local/lib", follow_symlinks=False)
        variables = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        # a Python built as a shared library looks for it where it was built, which only root may be able to read
        variables["LD_LIBRARY_PATH"] = "/usr/local/lib"
        self.stages.append(Stage(name, upper, variables))

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        value = self._given.get(name, default.strip('"'))
        if self.stages:
            self.stages[-1].arguments[name] = value

    def _env(self, rest: str) -> None:
        self.stages[-1].variables |= dict(pair.split("=", 1) for pair in shlex.split(rest))

    def _workdir(self, rest: str) -> None:
        self.stages[-1].folder = rest

    def _user(self, rest: str) -> None:
        self.stages[-1].user = rest

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        source_root = self._context
        if sources[0].startswith("--from="):
            source_root = next(each.upper for each in self.stages if each.name == sources[0][7:])
            sources = sources[1:]
        into = self.stages[-1].upper / target.lstrip("/")
        for source in sources:
            found = source_root / source.lstrip("/")
            if found.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "bench")
                shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                place = into / found.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, place)

    def _run(self, rest: str) -> None:
        stage = self.stages[-1]
        settings = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
        variables = {**settings, **stage.variables, **stage.arguments}
        subprocess.run(
            self._inside(stage, ["sh", "-c", rest], variables, read_only=False),
            check=True,
            capture_output=True,
            timeout=900,
            env={"PATH": os.environ["PATH"]},
        )

    def _inside(
        self, stage: Stage, command: list[str], variables: dict[str, str], *, read_only: bool
    ) -> list[str]:
        root = self._scratch / f"{stage.name}-root"
        work = self._scratch / f"{stage.name}-work"
        for folder in (root, work):
            folder.mkdir(exist_ok=True)
        layers = f"lowerdir=/,upperdir={stage.upper},workdir={work}"
        user = stage.user if read_only else "0:0"
        lines = [
            f"mount -t overlay overlay -o {layers} {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount --bind {sys.base_prefix}/lib/{_NAME} {root}/{_LIBRARY}",
        ]
        if read_only:
            lines += [
                f"mount -o remount,ro,bind {root}/{_LIBRARY}",
                f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
                f"mount -t tmpfs -o uid={user.split(':')[0]} tmpfs {root}/data",
                f"mount -o remount,ro {root}",
            ]
        given = " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())
        inner = shlex.quote(f"cd {stage.folder} && exec " + shlex.join(command))
        lines.append(f"exec chroot --userspec={user} {root} env -i {given} sh -c {inner}")
        return ["unshare", "--mount", "sh", "-ec", "\n".join(lines)]
