import pytest
import torch

from vlmoe_model.precision import choose_device, choose_dtype, has_native_bf16


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(ValueError, match="torch sees no GPU"):
        choose_device("cuda")
    with pytest.raises(ValueError, match="one of auto, cpu, cuda, got 'tpu'"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("vlmoe_model.precision.has_native_bf16", lambda native=native: native)
        assert choose_dtype("auto", "cpu") == chosen
        assert choose_dtype("auto", "cuda") == "bf16"
        assert choose_dtype("fp32", "cuda") == "fp32"
    with pytest.raises(ValueError, match="one of auto, fp32, bf16, int8, got 'fp16'"):
        choose_dtype("fp16", "cpu")
    assert choose_dtype("int8", "cpu") == "int8"
    with pytest.raises(ValueError, match="int8 experts run on CPU only, not on cuda"):
        choose_dtype("int8", "cuda")


def test_other_processors_are_served_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not has_native_bf16()
