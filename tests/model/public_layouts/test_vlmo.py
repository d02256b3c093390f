"""The flags reproduce VLMo, parameter for parameter."""

import pytest
import torch
import torch.nn.functional as F

from .equations import INPUTS, answer_of, apply_dense, apply_norm, inputs_of, job_of, load, states_of
from .vlmo import vlmo_config, vlmo_converted, vlmo_states, vlmo_weights


@pytest.mark.parametrize("kind", INPUTS)
def test_vlmo_states(kind: str) -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("vqa" if kind.endswith("pair") else "itc", kind)
    expected = vlmo_states(w, *inputs_of(job, config))
    torch.testing.assert_close(
        states_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-4, atol=1e-5
    )


def test_vlmo_answers() -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("vqa", "pair")
    pooled = apply_dense(w, "pooler.dense", vlmo_states(w, *inputs_of(job, config))[0]).tanh()
    hidden = apply_norm(w, "vqa_classifier.1", apply_dense(w, "vqa_classifier.0", pooled), 1e-5)
    expected = apply_dense(w, "vqa_classifier.3", F.gelu(hidden))
    # our heads have the encoder's epsilon, theirs torch's
    torch.testing.assert_close(
        answer_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("kind", "side"), [("image", "image"), ("text", "text")])
def test_vlmo_embeddings(kind: str, side: str) -> None:
    w, config = vlmo_weights(), vlmo_config()
    job = job_of("itc", kind)
    projected = w[f"itc_{side}_proj.fc.weight"] @ vlmo_states(w, *inputs_of(job, config))[0]
    expected = projected / projected.norm()
    torch.testing.assert_close(
        answer_of(load(config, vlmo_converted(w)), job), expected, rtol=1e-4, atol=1e-5
    )
