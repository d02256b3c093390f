"""The server's options, defined once: every field of `Options` is one option of `vlmoe serve`.

The annotation of a field holds the function that reads its value and its text for --help; `option_sources`
fills them from the command line, the environment and a file.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from vlmoe_model.routing_mode import DEFAULT, MAX_CAPACITY, MIN_CAPACITY, OVERFLOWS, Overflow, RoutingMode

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
# of the gRPC door, where 0 is taken
ANY_PORT = -1
# of `--brownout on` alone
BROWNOUT_CAPACITY = 0.25


@dataclass(frozen=True, slots=True)
class Option:
    """How one option is read and described.

    read: from text to the checked value; raises ValueError with what is allowed.
    many: may be given several times.
    shown: the default as --help shows it, where it is not the value itself.
    """

    read: Callable[[str], Any]
    metavar: str
    help: str
    many: bool = False
    shown: str = ""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One checkpoint to serve, and the name that requests call it by."""

    name: str
    path: str


def _model(text: str) -> ModelChoice:
    name, equals, path = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        # a path may hold an equals sign of its own
        name, path = Path(text).absolute().name if text != "demo" else text, text
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:64] or "model"
    if not path:
        raise ValueError("a path must follow NAME=")
    return ModelChoice(name, path)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _port_or_off(text: str) -> int:
    return ANY_PORT if text == "auto" else _whole(0, 65535)(text)


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    return parse


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def read_switch(text: str) -> str:
    """`on` or `off`, or what programs that write YAML make of them."""
    return _choice("off", "on")({"true": "on", "false": "off"}.get(text.lower(), text))


def _threads(text: str) -> int:
    return 0 if text == "auto" else _whole(1, 1024)(text)


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ValueError("must be NAME=VALUE")
    return name, value


def _url_host(text: str) -> str:
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", text):
        raise ValueError("must be HOST or HOST:PORT, a host being a name, an address, or [an IPv6 address]")
    return text.lower()


def _collector(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+:[0-9]{1,5}/?", text):
        raise ValueError("must be http://HOST:PORT, or https://HOST:PORT for TLS")
    return text


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not _HOST.fullmatch(host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("must be HOST:PORT, a host being a name, an address, or [an IPv6 address]")
    return text.lower()


def _path(text: str) -> Path:
    return Path(_text(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that can be set, checked. `threads` is 0 for as many as fit."""

    model: Annotated[
        tuple[ModelChoice, ...],
        Option(
            _model,
            "[NAME=]PATH",
            "a checkpoint directory, or demo; may be given several times (in a variable: commas between)",
            many=True,
            shown="demo",
        ),
    ] = (ModelChoice("demo", "demo"),)
    host: Annotated[str, Option(_text, "ADDRESS", "address to listen on")] = "127.0.0.1"
    port: Annotated[int, Option(_whole(0, 65535), "N", "port of the HTTP door; 0 takes a free one")] = 8000
    grpc_port: Annotated[
        int, Option(_port_or_off, "N", "port of the gRPC door; 0 = no such door, auto takes a free one")
    ] = 8001
    device: Annotated[
        str, Option(_choice("auto", "cpu", "cuda"), "NAME", "where the model runs: auto, cpu or cuda")
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            _choice("auto", "fp32", "bf16", "int8"),
            "NAME",
            "type of the numbers: auto, fp32, bf16 or int8 (experts)",
        ),
    ] = "auto"
    ranks: Annotated[
        int,
        Option(
            _whole(1, 64), "N", "processes, each with its own GPU if there are any, that share the experts"
        ),
    ] = 1
    capacity: Annotated[
        float | None,
        Option(
            _number(MIN_CAPACITY, MAX_CAPACITY),
            "FACTOR",
            "slots of an expert, as a factor of an even share of a batch's tokens: faster below 1, and answers depend "
            "on what they are batched with",
            shown="none",
        ),
    ] = None
    overflow: Annotated[
        str,
        Option(
            _choice(*OVERFLOWS),
            "NAME",
            "who gets an expert's slots: drop (the first), priority (the highest scores), or reroute (likewise, and "
            "the others try their next best expert)",
        ),
    ] = "priority"
    experts_per_token: Annotated[
        int | None,
        Option(_whole(1, 4096), "N", "experts of a token at most", shown="the checkpoint's"),
    ] = None
    brownout: Annotated[
        str,
        Option(
            read_switch,
            "off/on",
            "on: capacity, overflow and experts-per-token hold only under overload, and not for embeddings",
        ),
    ] = "off"
    nodes: Annotated[int, Option(_whole(1, 64), "N", "hosts that the ranks are on, equally many on each")] = 1
    node_rank: Annotated[
        int,
        Option(
            _whole(0, 63), "I", "which of the nodes this is; node 0 has the doors, the others compute for it"
        ),
    ] = 0
    rendezvous: Annotated[
        str | None,
        Option(
            _endpoint, "HOST:PORT", "where node 0 takes in the other nodes; the same on all", shown="none"
        ),
    ] = None
    rendezvous_key_file: Annotated[
        Path | None,
        Option(_path, "FILE", "a file with the key that nodes must know to join", shown="none"),
    ] = None
    placement: Annotated[
        str | None,
        Option(
            _text,
            "FILE/POLICY",
            "which rank holds which experts: a file of vlmoe plan, or a policy that plans at start",
            shown="even shares",
        ),
    ] = None
    engine: Annotated[
        str,
        Option(_choice("torch", "vllm"), "NAME", "what computes: torch, our own, or vllm, where installed"),
    ] = "torch"
    vllm: Annotated[
        tuple[tuple[str, str], ...],
        Option(
            _setting,
            "NAME=VALUE",
            "a setting of vLLM by its own name, such as data_parallel_size=2; see docs/vllm.md",
            many=True,
            shown="none",
        ),
    ] = ()
    rebalance: Annotated[
        str,
        Option(
            read_switch,
            "off/on",
            "on: move experts between ranks while serving, as the traffic changes",
        ),
    ] = "off"
    threads: Annotated[
        int, Option(_threads, "N", "threads of each rank; auto shares the cores among them", shown="auto")
    ] = 0
    data_dir: Annotated[Path, Option(_path, "DIR", "where collections are kept")] = Path("vlmoe-data")
    api_key_file: Annotated[
        Path | None,
        Option(_path, "FILE", "a file of keys, one a line; without it no key is asked for", shown="none"),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Option(_path, "FILE", "certificate chain (PEM); with --tls-key, turns TLS on", shown="none"),
    ] = None
    tls_key: Annotated[Path | None, Option(_path, "FILE", "the certificate's key (PEM)", shown="none")] = None
    tls_client_ca: Annotated[
        Path | None,
        Option(_path, "FILE", "callers must show a certificate of this authority (PEM)", shown="none"),
    ] = None
    max_connections: Annotated[
        int, Option(_whole(1, 1_000_000), "N", "open connections; more are refused with 503")
    ] = 2048
    max_key_concurrency: Annotated[
        int, Option(_whole(0, 1_000_000), "N", "requests of one key at a time; 0 sets no limit")
    ] = 0
    max_key_rate: Annotated[
        float, Option(_number(0, 1_000_000), "N", "requests of one key a second; 0 sets no limit")
    ] = 0.0
    allow_url_host: Annotated[
        tuple[str, ...],
        Option(
            _url_host,
            "HOST[:PORT]",
            "hosts that images may be fetched from; without one, images by URL are refused",
            many=True,
            shown="none",
        ),
    ] = ()
    model_root: Annotated[
        Path | None,
        Option(_path, "DIR", "models may be loaded from below it at run time", shown="none"),
    ] = None
    admin_key_file: Annotated[
        Path | None,
        Option(_path, "FILE", "keys of those who may load and unload models, one a line", shown="none"),
    ] = None
    max_image_pixels: Annotated[int, Option(_whole(1, 2_000_000_000), "N", "largest image, in pixels")] = (
        64_000_000
    )
    max_body_mb: Annotated[float, Option(_number(0.001, 4096), "MB", "largest request body")] = 32.0
    cache_mb: Annotated[
        float, Option(_number(0, 1_048_576), "MB", "decoded images and embeddings to keep; 0 keeps none")
    ] = 256.0
    max_queue_ms: Annotated[
        float,
        Option(_number(1, 3_600_000), "MS", "predicted wait beyond which requests are refused with 429"),
    ] = 2000.0
    log_format: Annotated[
        str,
        Option(_choice("text", "json"), "NAME", "lines of text, or an object of JSON a line: text or json"),
    ] = "text"
    otlp: Annotated[
        str,
        Option(
            _collector,
            "URL",
            "send traces to this OpenTelemetry collector: its OTLP port for gRPC, as http://HOST:4317",
            shown="none",
        ),
    ] = ""
    trace_routing: Annotated[
        Path | None,
        Option(
            _path,
            "DIR",
            "record which experts tokens choose, for vlmoe plan; a folder a model where there are several",
            shown="none",
        ),
    ] = None
    expert_memory_mb: Annotated[
        float,
        Option(
            _number(0, 16_777_216),
            "MB",
            "memory for the experts of each model, the others wait on disk; 0 sets no limit",
        ),
    ] = 0.0
    drain_s: Annotated[
        float, Option(_number(0, 3600), "SECONDS", "how long SIGTERM waits for requests in flight")
    ] = 25.0

    @property
    def routing_mode(self) -> RoutingMode:
        """The mode in which everything is answered."""
        return DEFAULT if self.brownout == "on" else self._described

    @property
    def brownout_mode(self) -> RoutingMode | None:
        """The mode in which is answered under overload; None for no other one."""
        if self.brownout == "off":
            return None
        if self.capacity is None and self.experts_per_token is None:
            return RoutingMode(BROWNOUT_CAPACITY, cast(Overflow, self.overflow))
        return self._described

    @property
    def _described(self) -> RoutingMode:
        return RoutingMode(self.capacity, cast(Overflow, self.overflow), self.experts_per_token)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def expert_memory(self) -> int:
        """`expert_memory_mb` in bytes."""
        return int(self.expert_memory_mb * 1e6)

    @property
    def cache_bytes(self) -> int:
        """`cache_mb` in bytes."""
        return int(self.cache_mb * 1e6)


OPTIONS: Mapping[str, Option] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Options, include_extras=True).items()
}
DEFAULTS = Options()
