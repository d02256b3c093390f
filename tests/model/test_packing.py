import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vlmoe_kernels import Run
from vlmoe_model.config import ModelConfig
from vlmoe_model.errors import InputError
from vlmoe_model.inputs import Example, Job
from vlmoe_model.packing import PAIR, TEXT, VISION, Packed, assemble, normalise, normalised_by_formula, pack

JobBuilder = Callable[..., Job]
JobsBuilder = Callable[[ModelConfig], list[Job]]


def test_runs_are_sorted_by_shape_and_jobs_lead_back(config: ModelConfig, mixed_jobs: JobsBuilder) -> None:
    jobs = mixed_jobs(config)
    packed = pack(jobs, config)
    assert sorted(packed.jobs) == list(range(len(jobs)))
    shapes = [(run.head, run.num_text, run.num_image) for run in packed.runs]
    assert shapes == sorted(set(shapes))
    position = 0
    for run in packed.runs:
        for n in range(run.num_sequences):
            example = jobs[packed.jobs[position]].example
            position += 1
            if run.tokens is not None:
                assert run.tokens[n].tolist() == example.tokens.tolist()
            if run.images is not None:
                # mean and deviation of 0.5 map 0..255 to -1..1
                pixels = torch.from_numpy(example.image).permute(2, 0, 1) / 127.5 - 1
                torch.testing.assert_close(run.images[n], pixels)


def test_the_order_of_runs_does_not_depend_on_the_order_of_jobs(
    config: ModelConfig, mixed_jobs: JobsBuilder
) -> None:
    jobs = mixed_jobs(config)
    forward, backward = (
        [(run.head, run.num_text, run.num_image, run.num_sequences) for run in pack(order, config).runs]
        for order in (jobs, jobs[::-1])
    )
    assert forward == backward


def test_jobs_of_one_shape_keep_their_order(config: ModelConfig, build_job: JobBuilder) -> None:
    jobs = [build_job(config, "questions", length, seed) for seed, length in enumerate((4, 7, 4, 7, 4))]
    assert pack(jobs, config).jobs == (0, 2, 4, 1, 3)


@pytest.mark.parametrize("order", ["text_first", "image_first"])
def test_tokens_know_their_pool(config: ModelConfig, build_job: JobBuilder, order: str) -> None:
    config = dataclasses.replace(config, order=order)
    jobs = [
        build_job(config, name, length)
        for name, length in (("entailment", 3), ("questions", 4), ("shapes", 0))
    ]
    packed = pack(jobs, config)
    pair = [TEXT] * 4 + [VISION] * 5 if order == "text_first" else [VISION] * 5 + [TEXT] * 4
    assert packed.modality.pool_T.tolist() == [TEXT] * 3 + pair + [VISION] * 5
    assert packed.fused.pool_T.tolist() == [TEXT] * 3 + [PAIR] * 9 + [VISION] * 5
    run = packed.runs[1]
    assert (run.text_start, run.image_start) == ((0, 4) if order == "text_first" else (5, 0))
    assert packed.num_tokens == 17
    assert packed.attention_runs == (Run(1, 3), Run(1, 9), Run(1, 5))


def test_every_token_is_in_one_pool(config: ModelConfig, mixed_jobs: JobsBuilder) -> None:
    packed = pack(mixed_jobs(config), config)
    for tokens, num_pools in ((packed.modality, 2), (packed.fused, 3)):
        assert len(tokens.rows) == len(tokens.plan.sizes) == num_pools
        assert sorted(torch.cat(tokens.rows).tolist()) == list(range(packed.num_tokens))
        assert tokens.plan.complete
        for pool, rows in enumerate(tokens.rows):
            assert (tokens.pool_T[rows] == pool).all()
            assert tokens.plan.sizes[pool] == len(rows)
        assert torch.equal(tokens.onehot_TP.argmax(1), tokens.pool_T)
        assert torch.equal(tokens.onehot_TP.sum(1), torch.ones(packed.num_tokens))


def test_runs_assemble_to_what_pack_makes(config: ModelConfig, mixed_jobs: JobsBuilder) -> None:
    packed = pack(mixed_jobs(config), config)
    again = assemble(packed.runs, packed.jobs)
    assert torch.equal(again.fused.pool_T, packed.fused.pool_T)
    assert again.jobs == packed.jobs


def test_normalise_uses_the_heads_own_values(config: ModelConfig) -> None:
    head = config.head("shapes")
    spec = dataclasses.replace(head.image, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    config = dataclasses.replace(config, heads=(dataclasses.replace(head, image=spec),))
    images = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    assert normalise(images, config, "shapes")[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]


def test_every_byte_is_normalised_as_the_formula_says(config: ModelConfig) -> None:
    spec = config.head("shapes").image
    images = torch.randperm(256 * 3).view(1, 16, 16, 3).to(torch.uint8)
    found = normalise(images, config, "shapes")
    assert found.is_contiguous()
    assert torch.equal(found, normalised_by_formula(images, spec))


def test_batches_of_one_shape_are_packed_alike_and_learn_after_serving(config: ModelConfig) -> None:
    def packed(value: int) -> Packed:
        return pack(
            [Job("questions", Example(np.full((8, 8, 3), value, np.uint8), ids(2, 9, value, 3)))] * 3, config
        )

    with torch.inference_mode():
        served = packed(5)
    first, second = packed(6), packed(7)
    for one, other in ((served, first), (first, second)):
        for name in ("modality", "fused"):
            mine, its = getattr(one, name), getattr(other, name)
            assert torch.equal(mine.pool_T, its.pool_T)
            assert mine.plan.sizes == its.plan.sizes
    assert second.runs[0].tokens[0].tolist() == [2, 9, 7, 3]
    assert served.fused.onehot_TP.is_inference()
    assert not first.fused.onehot_TP.is_inference()
    weight = torch.zeros(3, 2, requires_grad=True)
    (first.fused.onehot_TP @ weight).sum().backward()


def test_normalise_needs_a_head_with_images(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="head 'entailment' takes no images"):
        normalise(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), config, "entailment")


def image(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("head", "example", "message"),
    [
        (
            "shapes",
            Example(image=image(12, 12, 3)),
            r"'shapes' takes images of \[8, 8, 3\], got one of \[12, 12, 3\]",
        ),
        ("shapes", Example(image=image(8, 12, 3)), r"got one of \[8, 12, 3\]"),
        ("shapes", Example(image=image(8, 8)), r"got one of \[8, 8\]"),
        ("entailment", Example(image=image(8, 8, 3)), "'entailment' takes no images"),
        ("shapes", Example(image=image(8, 8, 3), tokens=ids(1)), "'shapes' takes no texts, got one of 1"),
        ("entailment", Example(tokens=ids(*range(13))), "texts of 1 to 12 tokens, got one of 13"),
        ("entailment", Example(tokens=ids()), "texts of 1 to 12 tokens, got one of 0"),
        ("entailment", Example(tokens=ids(2, 120)), r"in \[0, 119\], got \[2, 120\]"),
        ("entailment", Example(tokens=ids(2, -1)), r"in \[0, 119\], got \[2, -1\]"),
    ],
    ids=["size", "not square", "grey", "no image", "no text", "long", "empty", "id", "negative id"],
)
def test_what_a_head_does_not_take_is_refused(
    config: ModelConfig, head: str, example: Example, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pack([Job(head, example)], config)


def test_an_unknown_head_is_refused_with_the_known_ones(config: ModelConfig, build_job: JobBuilder) -> None:
    job = build_job(config, "entailment", 3)
    with pytest.raises(KeyError, match="no head 'colours'; heads: questions, shapes"):
        pack([Job("colours", job.example)], config)


def test_no_jobs_are_refused(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="at least one job"):
        pack([], config)
