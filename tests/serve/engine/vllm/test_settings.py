import dataclasses
from pathlib import Path

import pytest

from vlmoe_model.config import HeadConfig
from vlmoe_model.presets import PRESETS
from vlmoe_serve.engine.base import EngineOptions
from vlmoe_serve.engine.vllm.settings import PASSED, engine_args, environment, parse

MIXTURE, DENSE = PRESETS["vlmoe_base_32e"], PRESETS["vlmo_dense_base"]
OPTIONS = EngineOptions(Path("/models/a"))


def options(ranks: int = 1, **settings: str) -> EngineOptions:
    return dataclasses.replace(OPTIONS, ranks=ranks, settings=tuple(settings.items()))


def test_ranks_are_tensor_parallel_and_share_the_experts_on_gpus():
    one = engine_args(OPTIONS, MIXTURE, "cuda", "bf16")
    assert (one["tensor_parallel_size"], one["enable_expert_parallel"]) == (1, False)
    four = engine_args(options(ranks=4), MIXTURE, "cuda", "bf16")
    assert (four["tensor_parallel_size"], four["enable_expert_parallel"]) == (4, True)
    assert not engine_args(options(ranks=4), DENSE, "cuda", "bf16")["enable_expert_parallel"]
    assert not engine_args(options(ranks=2), MIXTURE, "cpu", "fp32")["enable_expert_parallel"]


def test_settings_go_through_by_vllms_names():
    args = engine_args(
        options(
            data_parallel_size="2",
            enable_expert_parallel="true",
            enable_eplb="true",
            num_redundant_experts="3",
            gpu_memory_utilization="0.5",
            distributed_executor_backend="ray",
        ),
        MIXTURE,
        "cuda",
        "fp32",
    )
    assert args["data_parallel_size"] == 2
    assert args["eplb_config"] == {"num_redundant_experts": 3}
    assert args["gpu_memory_utilization"] == 0.5
    assert args["distributed_executor_backend"] == "ray"
    assert "num_redundant_experts" not in args
    assert args["dtype"] == "float32"


def test_a_step_holds_the_longest_sequence():
    head = HeadConfig(name="tones", task="text_classification", out_dim=2, image=None, max_text=9000)
    long = dataclasses.replace(DENSE, max_text=9000, heads=(head,))
    assert engine_args(OPTIONS, long, "cuda", "bf16")["max_num_batched_tokens"] == 9000
    with pytest.raises(ValueError, match="longest sequence, 9000"):
        engine_args(options(max_num_batched_tokens="4096"), long, "cuda", "bf16")


@pytest.mark.parametrize(
    ("device", "config", "given", "says"),
    [
        ("cpu", MIXTURE, options(data_parallel_size="2"), "data_parallel_size does not work on CPU"),
        ("cpu", MIXTURE, options(enable_expert_parallel="true", enable_eplb="true"), "does not work on CPU"),
        ("cuda", DENSE, options(enable_expert_parallel="true"), "no experts"),
        ("cuda", MIXTURE, options(ranks=4, enable_eplb="true"), "65 experts a multiple of 4 ranks: 3 more"),
        ("cuda", MIXTURE, options(enable_eplb="true"), "enable_expert_parallel=true"),
        ("cuda", MIXTURE, options(num_redundant_experts="2"), "needs --vllm enable_eplb=true"),
        ("cuda", MIXTURE, options(ranks=2, tensor_parallel_size="2"), "give one of them"),
    ],
)
def test_what_cannot_work_is_said_at_once(device, config, given, says):
    with pytest.raises(ValueError, match=says):
        engine_args(given, config, device, "fp32")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nonsense", "1", ", ".join(PASSED)),
        ("data_parallel_size", "0", "whole number"),
        ("data_parallel_size", "many", "whole number"),
        ("enable_eplb", "yes", "true or false"),
        ("gpu_memory_utilization", "2", "up to 1"),
        ("gpu_memory_utilization", "half", "up to 1"),
    ],
)
def test_bad_settings_name_themselves(name, text, says):
    with pytest.raises(ValueError, match=f"--vllm {name}.*{says}"):
        parse([(name, text)])


def test_threads_reach_vllms_workers():
    assert environment(3)["OMP_NUM_THREADS"] == "3"
