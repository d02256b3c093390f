"""The flags reproduce BEiT-3, parameter for parameter."""

import math

import pytest
import torch
import torch.nn.functional as F

from .beit3 import beit3_config, beit3_converted, beit3_normed, beit3_states, beit3_weights
from .equations import INPUTS, answer_of, apply_dense, apply_norm, inputs_of, job_of, load, states_of


@pytest.mark.parametrize("kind", INPUTS)
def test_beit3_states(kind: str) -> None:
    w, config = beit3_weights(), beit3_config()
    job = job_of("vqa" if kind.endswith("pair") else "itc", kind)
    network = load(config, beit3_converted(w) | beit3_normed(w))
    expected = beit3_states(w, *inputs_of(job, config))
    torch.testing.assert_close(states_of(network, job), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name", "side"), [("image", "vision", "image"), ("text", "language", "text")]
)
def test_beit3_embeddings(kind: str, name: str, side: str) -> None:
    w, config = beit3_weights(), beit3_config()
    job = job_of("itc", kind)
    projections = {
        f"heads.itc.{s}_proj.weight": w[f"{n}_head.weight"]
        for n, s in (("vision", "image"), ("language", "text"))
    }
    network = load(config, beit3_converted(w) | beit3_normed(w) | projections)
    projected = w[f"{name}_head.weight"] @ beit3_states(w, *inputs_of(job, config))[0]
    torch.testing.assert_close(answer_of(network, job), projected / projected.norm(), rtol=1e-4, atol=1e-5)
    assert math.isclose(float(answer_of(network, job).norm()), 1.0, abs_tol=1e-5)


def test_beit3_answers() -> None:
    """Without a final norm of its own; the pooler's takes its place, and reads an image token."""
    w, config = beit3_weights(), beit3_config()
    job = job_of("vqa", "pair")
    ours = beit3_converted(w)
    for kind in ("weight", "bias"):
        ours[f"encoder.norm.{kind}"] = w[f"pooler.norm.{kind}"].expand(2, -1)
        for name, theirs in (
            ("pooler", "pooler.dense"),
            ("up", "head.0"),
            ("norm", "head.1"),
            ("out", "head.3"),
        ):
            ours[f"heads.vqa.{name}.{kind}"] = w[f"{theirs}.{kind}"]
    first = beit3_states(w, *inputs_of(job, config), final_norm=False)[0]
    pooled = apply_dense(w, "pooler.dense", apply_norm(w, "pooler.norm", first, 1e-6)).tanh()
    hidden = F.gelu(apply_norm(w, "head.1", apply_dense(w, "head.0", pooled), 1e-6))
    expected = apply_dense(w, "head.3", hidden)
    # our heads have the encoder's epsilon, theirs 1e-6
    torch.testing.assert_close(answer_of(load(config, ours), job), expected, rtol=1e-3, atol=1e-3)


def test_beit3_classes() -> None:
    w, config = beit3_weights(), beit3_config(final_norm=False, pool="mean")
    job = job_of("classes", "image")
    ours = beit3_converted(w)
    for kind in ("weight", "bias"):
        ours[f"heads.classes.pool.norm.{kind}"] = w[f"fc_norm.{kind}"]
        ours[f"heads.classes.out.{kind}"] = w[f"head.{kind}"]
    patches = beit3_states(w, *inputs_of(job, config), final_norm=False)[1:]
    expected = apply_dense(w, "head", apply_norm(w, "fc_norm", patches.mean(0), 1e-6))
    torch.testing.assert_close(answer_of(load(config, ours), job), expected, rtol=1e-3, atol=1e-3)
