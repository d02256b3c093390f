"""From our options to vLLM's: what is set, what may be set, what is refused."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmoe_model.config import ModelConfig
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.vllm import FORMAT
from vlmoe_serve.engine.vllm.token_ids import longest

# tokens of one of its steps; a batch of ours that has more takes several
_STEP_TOKENS = 8192
_STEP_SEQUENCES = 256
# encoders keep nothing between steps, but vLLM wants to hear a size
_CPU_CACHE_BYTES = 2**26

# set in processes of vLLM that are part of an engine of ours, and not of somebody's own vLLM
OURS = "VLMOE_ENGINE_VLLM"

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("must be a whole number from 1")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise ValueError("must be a number above 0 and up to 1")
    return value


# what --vllm NAME=VALUE may set, by vLLM's own names
PASSED: Mapping[str, Callable[[str], Any]] = {
    "tensor_parallel_size": _count,
    "data_parallel_size": _count,
    "enable_expert_parallel": _flag,
    "enable_eplb": _flag,
    "num_redundant_experts": _count,
    "distributed_executor_backend": str,
    "gpu_memory_utilization": _share,
    "max_num_batched_tokens": _count,
    "max_num_seqs": _count,
}


def parse(settings: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of `--vllm NAME=VALUE`.

    Raises:
        ValueError: an unknown name, or a value that it does not take.
    """
    values = {}
    for name, text in settings:
        if name not in PASSED:
            raise ValueError(f"--vllm {name} is not known; there are {', '.join(PASSED)}")
        try:
            values[name] = PASSED[name](text)
        except ValueError as error:
            raise ValueError(f"--vllm {name}={text}: {error}") from None
    return values


def engine_args(options: EngineOptions, config: ModelConfig, device: str, dtype: str) -> dict[str, Any]:
    """The arguments of vLLM's `AsyncEngineArgs`.

    --ranks N is tensor parallelism over N devices of this host; where there are experts and the device lets them be
    shared out, the experts are.

    Args:
        options: ours.
        config: of the network.
        device: what this vLLM runs on, `cpu` or `cuda`.
        dtype: `fp32` or `bf16`.

    Raises:
        ValueError: something that vLLM cannot do here.
    """
    given = parse(options.settings)
    if options.ranks > 1 and "tensor_parallel_size" in given:
        raise ValueError("--ranks and --vllm tensor_parallel_size say the same: give one of them")
    num_shares = given.get("tensor_parallel_size", options.ranks)
    num_copies = given.get("data_parallel_size", 1)
    is_shared = num_shares * num_copies > 1 and bool(config.moe_blocks) and device != "cpu"
    args: dict[str, Any] = {
        "model": str(options.path),
        "config_format": FORMAT,
        "load_format": FORMAT,
        "runner": "pooling",
        "skip_tokenizer_init": True,
        "dtype": DTYPES[dtype],
        "max_model_len": longest(config),
        "max_num_batched_tokens": max(_STEP_TOKENS, longest(config)),
        "max_num_seqs": _STEP_SEQUENCES,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_cache_gb": 0,
        "skip_mm_profiling": True,
        "enable_prefix_caching": False,
        # which token is of which pool differs from step to step: nothing to compile or to record
        "enforce_eager": True,
        "disable_log_stats": True,
        "tensor_parallel_size": num_shares,
        "enable_expert_parallel": is_shared,
    }
    if device == "cpu":
        args["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    args |= given
    num_redundant = args.pop("num_redundant_experts", 0)
    if num_redundant and not args.get("enable_eplb"):
        raise ValueError("--vllm num_redundant_experts needs --vllm enable_eplb=true")
    if args.get("enable_eplb"):
        args["eplb_config"] = {"num_redundant_experts": num_redundant}
    _check(args, config, device)
    return args


def _check(args: Mapping[str, Any], config: ModelConfig, device: str) -> None:
    """What would fail late, or in a way that nobody could read."""
    if args["max_num_batched_tokens"] < args["max_model_len"]:
        raise ValueError(
            f"--vllm max_num_batched_tokens must hold the longest sequence, {args['max_model_len']} tokens"
        )
    if args["enable_expert_parallel"] and not config.moe_blocks:
        raise ValueError("--vllm enable_expert_parallel: the checkpoint has no experts")
    if args.get("enable_eplb") and not args["enable_expert_parallel"]:
        raise ValueError("--vllm enable_eplb needs experts that are shared out (enable_expert_parallel=true)")
    if args.get("enable_eplb") and device != "cpu":
        num_ranks = args["tensor_parallel_size"] * args.get("data_parallel_size", 1)
        num_places = num_logical(config, True) + args["eplb_config"]["num_redundant_experts"]
        if num_places % num_ranks:
            raise ValueError(
                f"--vllm num_redundant_experts must make {num_places} experts a multiple of {num_ranks} ranks: "
                f"{-num_places % num_ranks} more"
            )
    if device != "cpu":
        return
    for is_so, name, why in (
        (args.get("enable_eplb"), "enable_eplb", "vLLM balances experts on GPUs only"),
        (
            args.get("data_parallel_size", 1) > 1 and bool(config.moe_blocks),
            "data_parallel_size",
            "vLLM cannot gather the tokens of an expert from there",
        ),
    ):
        if is_so:
            raise ValueError(f"--vllm {name} does not work on CPU: {why}; tensor_parallel_size does")


def num_logical(config: ModelConfig, has_pairs: bool) -> int:
    """Experts of a mixture, of all pools.

    has_pairs: the layer has a pool for pairs, or stands beside such layers and must have as many experts as they:
        vLLM's balancer takes all layers for alike.
    """
    if not has_pairs or config.vl_start is None or config.vl_start > max(config.moe_blocks):
        return 2 * config.num_experts
    return 2 * config.num_experts + 1


def environment(threads: int) -> dict[str, str]:
    """Variables that vLLM reads when it is imported, and hands on to its processes.

    threads: compute threads of each of its workers.
    """
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        # its warnings are about settings that nobody here has made; stdout is ours
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        # nothing is sent home
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        OURS: "1",
    }
