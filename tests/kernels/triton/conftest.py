"""Kernels in two places: under the interpreter on CPU tensors, and on a GPU where there is one."""

import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

CHILD = Path(__file__).with_name("child.py")

Call = Callable[..., Any]


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Call]:
    """call("module:name", ((args), {kwargs}), ...) in a process under the interpreter.

    Its dot product of bf16 multiplies the bits, so tests there are in fp32 and fp16.
    """
    child = subprocess.Popen(
        [sys.executable, str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def call(path: str, *steps: Any) -> Any:
        pickle.dump((path, steps), child.stdin)
        child.stdin.flush()
        is_done, value = pickle.load(child.stdout)
        if not is_done:
            raise RuntimeError(value)
        return value

    yield call
    child.stdin.close()
    child.wait(timeout=240)
    child.stdout.close()


@pytest.fixture(scope="session")
def on_gpu() -> Call:
    """The same calls on the GPU of this machine, with arguments moved there and values moved back."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    evaluate = runpy.run_path(str(CHILD))["evaluate"]

    def call(path: str, *steps: Any) -> Any:
        return moved(evaluate(path, *moved(steps, "cuda")), "cpu")

    return call


def moved(value: Any, device: str) -> Any:
    """Tensors inside tuples, lists, dicts and dataclasses on another device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, torch.device):
        return torch.device(device)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)._make(moved(each, device) for each in value)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(each, device) for each in value)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def call(request: pytest.FixtureRequest) -> Call:
    """Both places, one after the other."""
    return request.getfixturevalue("interpreted" if request.param == "interpreter" else "on_gpu")
