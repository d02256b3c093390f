"""From an option's text to its value. Each raises ValueError with what is allowed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
# of the gRPC door, where 0 is taken
ANY_PORT = -1


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One checkpoint to serve, and the name that requests call it by."""

    name: str
    path: str


def model_choice(text: str) -> ModelChoice:
    """NAME=PATH, or a path, whose last part is the name then."""
    name, equals, path = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        # a path may hold an equals sign of its own
        name, path = Path(text).absolute().name if text != "demo" else text, text
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:64] or "model"
    if not path:
        raise ValueError("a path must follow NAME=")
    return ModelChoice(name, path)


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads whole numbers of a range."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def port_or_off(text: str) -> int:
    """A port, 0 for none, or `auto` for any that is free."""
    return ANY_PORT if text == "auto" else whole(0, 65535)(text)


def number(low: float, high: float) -> Callable[[str], float]:
    """Reads numbers of a range."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:.12g} to {high:.12g}")
        return value

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    """Reads one of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def switch(text: str) -> str:
    """`on` or `off`, or what programs that write YAML make of them."""
    return choice("off", "on")({"true": "on", "false": "off"}.get(text.lower(), text))


def threads(text: str) -> int:
    """A number of threads; 0 stands for `auto`."""
    return 0 if text == "auto" else whole(1, 1024)(text)


def text_of(text: str) -> str:
    """Any text but none."""
    if not text:
        raise ValueError("must not be empty")
    return text


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError("must be NAME=VALUE")
    return name, value


def url_host(text: str) -> str:
    """A host, perhaps with a port, as a URL has it."""
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", text):
        raise ValueError("must be HOST or HOST:PORT, a host being a name, an address, or [an IPv6 address]")
    return text.lower()


def collector(text: str) -> str:
    """The URL of a collector of traces."""
    if not re.fullmatch(r"https?://[^/\s]+:[0-9]{1,5}/?", text):
        raise ValueError("must be http://HOST:PORT, or https://HOST:PORT for TLS")
    return text


def endpoint(text: str) -> str:
    """HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("must be HOST:PORT, a host being a name, an address, or [an IPv6 address]")
    return text.lower()


def path(text: str) -> Path:
    """A path; whether it exists is found out by whoever opens it."""
    return Path(text_of(text))
