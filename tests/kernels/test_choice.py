import importlib.util
import logging
from collections.abc import Iterator

import pytest
import torch

from vlmoe_kernels import choice
from vlmoe_kernels.choice import (
    choose_backend,
    choose_learning_backend,
    why_not_native,
    why_not_triton,
)
from vlmoe_kernels.native.library import library


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a new process."""
    monkeypatch.delenv("VLMOE_KERNELS_NATIVE", raising=False)
    for remembered in (why_not_native, why_not_triton, library):
        remembered.cache_clear()
    yield
    for remembered in (why_not_native, why_not_triton, library):
        remembered.cache_clear()


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("VLMOE_KERNELS_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_the_best_on_this_processor_unless_there_is_a_reason() -> None:
    expected = "cpu" if why_not_native() else "cpu_native"
    assert choose_backend("auto", "cpu") == expected


@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_onednn_takes_over_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert [choose_backend("auto", "cpu") for _ in range(3)] == ["cpu"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("the CPU kernels in C++ are not used: ")
    assert record.message.endswith("; oneDNN's run instead")


def test_switched_off_on_purpose_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("VLMOE_KERNELS_NATIVE", "off")
    assert choose_backend("auto", "cpu") == "cpu"
    (record,) = caplog.records
    assert (record.levelno, "VLMOE_KERNELS_NATIVE=off" in record.message) == (logging.INFO, True)


@pytest.mark.usefixtures("without_compiler")
def test_what_was_asked_for_is_taken_or_refused() -> None:
    assert choose_backend("cpu", "cpu") == "cpu"
    assert choose_backend("reference", "cpu") == "reference"
    with pytest.raises(ValueError, match=r"^backend cpu_native was asked for, but "):
        choose_backend("cpu_native", "cpu")
    with pytest.raises(ValueError, match=r"backend must be one of auto, reference, .*, got 'fast'"):
        choose_backend("fast", "cpu")


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(choice, "_driver_fault", lambda: "")


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_gets_the_kernels_in_triton() -> None:
    assert choose_backend("auto", "cuda") == "triton"


@pytest.mark.usefixtures("a_gpu")
@pytest.mark.parametrize("missing", ["triton", "capability", "compiler"])
def test_without_triton_plain_torch_takes_over_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    if missing == "triton":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    elif missing == "compiler":
        monkeypatch.setattr(choice, "_driver_fault", lambda: "Triton cannot reach the GPU (no C compiler)")
    else:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert [choose_backend("auto", "cuda") for _ in range(3)] == ["eager"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("the GPU kernels in Triton are not used: ")
    with pytest.raises(ValueError, match=r"^backend triton was asked for, but "):
        choose_backend("triton", "cuda")


def test_tritons_driver_is_there_where_a_gpu_is() -> None:
    fault = choice._driver_fault()
    assert fault == "" if torch.cuda.is_available() else fault.startswith("Triton cannot reach the GPU (")


def test_the_kernels_in_triton_are_for_gpus_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        choose_backend("triton", "cpu")
    why_not_triton.cache_clear()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend("triton", "cpu") == "triton"


def test_training_takes_the_kernels_where_they_run() -> None:
    expected = "vlmoe_kernels.eager" if why_not_native() else "vlmoe_kernels.native"
    assert choose_learning_backend("auto", "cpu").__name__ == expected
    assert choose_learning_backend("eager", "cpu").__name__ == "vlmoe_kernels.eager"


@pytest.mark.usefixtures("without_compiler")
def test_without_a_compiler_plain_torch_trains() -> None:
    assert choose_learning_backend("auto", "cpu").__name__ == "vlmoe_kernels.eager"
    with pytest.raises(ValueError, match=r"^backend cpu_native was asked for, but "):
        choose_learning_backend("cpu_native", "cpu")


def test_a_backend_without_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="backend cpu has no gradients"):
        choose_learning_backend("cpu", "cpu")
