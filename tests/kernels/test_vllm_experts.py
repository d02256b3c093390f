import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from vlmoe_kernels import make_plan
from vlmoe_kernels.choice import choose_backend
from vlmoe_kernels.vllm_experts import choices


def test_a_plan_and_its_choices_say_the_same() -> None:
    groups_TK = torch.tensor([[2, 0], [1, -1], [-1, -1], [0, 2]])
    gates_TK = torch.tensor([[0.5, 0.25], [1.0, 7.0], [7.0, 7.0], [0.75, 0.125]])
    gates, groups = choices(make_plan(groups_TK, gates_TK, 4))
    assert groups.dtype == torch.int32
    assert groups.tolist() == [[2, 0], [1, 0], [0, 0], [0, 2]]
    assert gates.tolist() == [[0.5, 0.25], [1.0, 0.0], [0.0, 0.0], [0.75, 0.125]]


def test_without_gates_every_choice_counts_once() -> None:
    gates, groups = choices(make_plan(torch.tensor([[1], [-1], [0]]), None, 2))
    assert (groups.tolist(), gates.tolist()) == ([[1], [0], [0]], [[1.0], [0.0], [1.0]])


def test_a_plan_without_rows_has_choices_of_weight_zero() -> None:
    gates, groups = choices(make_plan(torch.full((3, 2), -1), None, 2))
    assert (groups.tolist(), gates.tolist()) == ([[0, 0]] * 3, [[0.0, 0.0]] * 3)


def test_where_it_cannot_be_had_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reason = "vLLM is not installed" if find_spec("vllm") is None else "torch sees no GPU"
    if torch.cuda.is_available() and find_spec("vllm") is not None:
        assert choose_backend("vllm", "cuda") == "vllm"
        return
    with pytest.raises(ValueError, match=f"backend vllm was asked for, but {reason}"):
        choose_backend("vllm", "cuda")


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm")
def test_vllms_kernels_under_the_interpreter_have_the_reference_s_answers() -> None:
    script = Path(__file__).with_name("vllm_interpreted.py")
    found = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    worst = [float(line.split()[2]) for line in lines if line.startswith("largest difference ")]
    assert len(worst) == 5
    assert max(worst) < 1e-5
