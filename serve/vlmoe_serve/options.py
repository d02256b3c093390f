"""The server's options, defined once: every field of `Options` is one option of `vlmoe serve`.

The annotation of a field holds the function that reads its value and its text for --help; `option_sources`
fills them from the command line, the environment and a file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from vlmoe_model.routing_mode import DEFAULT, MAX_CAPACITY, MIN_CAPACITY, OVERFLOWS, Overflow, RoutingMode
from vlmoe_serve import option_readers as readers
from vlmoe_serve.option_readers import ModelChoice

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that can be set, checked. `threads` is 0 for as many as fit."""

    model: Annotated[
        tuple[ModelChoice, ...],
        Option(
            readers.model_choice,
            "[NAME=]PATH",
            "a checkpoint directory, or demo; may be given several times (in a variable: commas between)",
            many=True,
            shown="demo",
        ),
    ] = (ModelChoice("demo", "demo"),)
    host: Annotated[str, Option(readers.text_of, "ADDRESS", "address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Option(readers.whole(0, 65535), "N", "port of the HTTP door; 0 takes a free one")
    ] = 8000
    grpc_port: Annotated[
        int,
        Option(readers.port_or_off, "N", "port of the gRPC door; 0 = no such door, auto takes a free one"),
    ] = 8001
    device: Annotated[
        str, Option(readers.choice("auto", "cpu", "cuda"), "NAME", "where the model runs: auto, cpu or cuda")
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            readers.choice("auto", "fp32", "bf16", "int8"),
            "NAME",
            "type of the numbers: auto, fp32, bf16 or int8 (experts)",
        ),
    ] = "auto"
    ranks: Annotated[
        int,
        Option(
            readers.whole(1, 64),
            "N",
            "processes, each with its own GPU if there are any, that share the experts",
        ),
    ] = 1
    capacity: Annotated[
        float | None,
        Option(
            readers.number(MIN_CAPACITY, MAX_CAPACITY),
            "FACTOR",
            "slots of an expert, as a factor of an even share of a batch's tokens: faster below 1, and answers depend "
            "on what they are batched with",
            shown="none",
        ),
    ] = None
    overflow: Annotated[
        str,
        Option(
            readers.choice(*OVERFLOWS),
            "NAME",
            "who gets an expert's slots: drop (the first), priority (the highest scores), or reroute (likewise, and "
            "the others try their next best expert)",
        ),
    ] = "priority"
    experts_per_token: Annotated[
        int | None,
        Option(readers.whole(1, 4096), "N", "experts of a token at most", shown="the checkpoint's"),
    ] = None
    brownout: Annotated[
        str,
        Option(
            readers.switch,
            "off/on",
            "on: capacity, overflow and experts-per-token hold only under overload, and not for embeddings",
        ),
    ] = "off"
    nodes: Annotated[
        int, Option(readers.whole(1, 64), "N", "hosts that the ranks are on, equally many on each")
    ] = 1
    node_rank: Annotated[
        int,
        Option(
            readers.whole(0, 63),
            "I",
            "which of the nodes this is; node 0 has the doors, the others compute for it",
        ),
    ] = 0
    rendezvous: Annotated[
        str | None,
        Option(
            readers.endpoint,
            "HOST:PORT",
            "where node 0 takes in the other nodes; the same on all",
            shown="none",
        ),
    ] = None
    rendezvous_key_file: Annotated[
        Path | None,
        Option(readers.path, "FILE", "a file with the key that nodes must know to join", shown="none"),
    ] = None
    placement: Annotated[
        str | None,
        Option(
            readers.text_of,
            "FILE/POLICY",
            "which rank holds which experts: a file of vlmoe plan, or a policy that plans at start",
            shown="even shares",
        ),
    ] = None
    engine: Annotated[
        str,
        Option(
            readers.choice("torch", "vllm"), "NAME", "what computes: torch, our own, or vllm, where installed"
        ),
    ] = "torch"
    vllm: Annotated[
        tuple[tuple[str, str], ...],
        Option(
            readers.setting,
            "NAME=VALUE",
            "a setting of vLLM by its own name, such as data_parallel_size=2; see docs/vllm.md",
            many=True,
            shown="none",
        ),
    ] = ()
    rebalance: Annotated[
        str,
        Option(
            readers.switch,
            "off/on",
            "on: move experts between ranks while serving, as the traffic changes",
        ),
    ] = "off"
    threads: Annotated[
        int,
        Option(readers.threads, "N", "threads of each rank; auto shares the cores among them", shown="auto"),
    ] = 0
    data_dir: Annotated[Path, Option(readers.path, "DIR", "where collections are kept")] = Path("vlmoe-data")
    api_key_file: Annotated[
        Path | None,
        Option(
            readers.path, "FILE", "a file of keys, one a line; without it no key is asked for", shown="none"
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Option(readers.path, "FILE", "certificate chain (PEM); with --tls-key, turns TLS on", shown="none"),
    ] = None
    tls_key: Annotated[
        Path | None, Option(readers.path, "FILE", "the certificate's key (PEM)", shown="none")
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Option(readers.path, "FILE", "callers must show a certificate of this authority (PEM)", shown="none"),
    ] = None
    max_connections: Annotated[
        int, Option(readers.whole(1, 1_000_000), "N", "open connections; more are refused with 503")
    ] = 2048
    max_key_concurrency: Annotated[
        int, Option(readers.whole(0, 1_000_000), "N", "requests of one key at a time; 0 sets no limit")
    ] = 0
    max_key_rate: Annotated[
        float, Option(readers.number(0, 1_000_000), "N", "requests of one key a second; 0 sets no limit")
    ] = 0.0
    allow_url_host: Annotated[
        tuple[str, ...],
        Option(
            readers.url_host,
            "HOST[:PORT]",
            "hosts that images may be fetched from; without one, images by URL are refused",
            many=True,
            shown="none",
        ),
    ] = ()
    model_root: Annotated[
        Path | None,
        Option(readers.path, "DIR", "models may be loaded from below it at run time", shown="none"),
    ] = None
    admin_key_file: Annotated[
        Path | None,
        Option(
            readers.path, "FILE", "keys of those who may load and unload models, one a line", shown="none"
        ),
    ] = None
    max_image_pixels: Annotated[
        int, Option(readers.whole(1, 2_000_000_000), "N", "largest image, in pixels")
    ] = 64_000_000
    max_body_mb: Annotated[float, Option(readers.number(0.001, 4096), "MB", "largest request body")] = 32.0
    cache_mb: Annotated[
        float,
        Option(readers.number(0, 1_048_576), "MB", "decoded images and embeddings to keep; 0 keeps none"),
    ] = 256.0
    max_queue_ms: Annotated[
        float,
        Option(
            readers.number(1, 3_600_000), "MS", "predicted wait beyond which requests are refused with 429"
        ),
    ] = 2000.0
    log_format: Annotated[
        str,
        Option(
            readers.choice("text", "json"), "NAME", "lines of text, or an object of JSON a line: text or json"
        ),
    ] = "text"
    otlp: Annotated[
        str,
        Option(
            readers.collector,
            "URL",
            "send traces to this OpenTelemetry collector: its OTLP port for gRPC, as http://HOST:4317 (for HTTP, "
            "as http://HOST:4318, with OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)",
            shown="none",
        ),
    ] = ""
    trace_routing: Annotated[
        Path | None,
        Option(
            readers.path,
            "DIR",
            "record which experts tokens choose, for vlmoe plan; a folder a model where there are several",
            shown="none",
        ),
    ] = None
    expert_memory_mb: Annotated[
        float,
        Option(
            readers.number(0, 16_777_216),
            "MB",
            "memory for the experts of each model, the others wait on disk; 0 sets no limit",
        ),
    ] = 0.0
    drain_s: Annotated[
        float, Option(readers.number(0, 3600), "SECONDS", "how long SIGTERM waits for requests in flight")
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
