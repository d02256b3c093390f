import pytest

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.packing import check_job
from vlmoe_serve.engine.warm_up import warm_up_batches

IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=1,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=4,
    max_text=40,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=IMAGE, max_text=40),
        HeadConfig(name="shapes", task="image_classification", out_dim=3, image=IMAGE, max_text=9),
        HeadConfig(name="tones", task="text_classification", out_dim=2, image=IMAGE, max_text=3),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)


def test_the_first_batch_touches_every_head_in_every_way():
    first, *_ = warm_up_batches(CONFIG)
    shapes = [(job.head, job.num_tokens(4)) for job in first]
    assert shapes == [
        ("questions", (17, 16)),
        ("shapes", (17, 0)),
        ("tones", (0, 3)),
        ("matching", (17, 0)),
        ("matching", (0, 8)),
    ]


def test_the_shortest_and_the_longest_are_timed_alone():
    _, short, long, two, *_ = warm_up_batches(CONFIG)
    assert [job.head for job in (*short, *long, *two)] == ["tones", "questions", "questions", "questions"]


@pytest.mark.parametrize("index", range(7))
def test_every_job_fits_its_head(index):
    for job in warm_up_batches(CONFIG)[index]:
        check_job(job, CONFIG)
