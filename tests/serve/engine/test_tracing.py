"""What a real forward pass leaves in a trace."""

from pathlib import Path

import numpy as np
import torch

from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Example, Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import pack
from vlmoe_model.routing import Routing
from vlmoe_serve.engine.tracing import RoutingTracer, rows_of, trace_meta
from vlmoe_serve.placement.trace_format import read_meta
from vlmoe_serve.placement.trace_reader import read_trace
from vlmoe_serve.placement.trace_writer import TraceWriter

IMAGE = ImageSpec(size=16)
CONFIG = ModelConfig(
    dim=16,
    num_layers=4,
    num_heads=2,
    ffn_dim=32,
    vocab_size=120,
    image_size=16,
    patch_size=8,
    max_text=12,
    moe_blocks=(1, 3),
    num_experts=4,
    top_k=2,
    vl_start=2,
    heads=(
        HeadConfig(name="questions", task="vqa", out_dim=3, image=IMAGE, max_text=12),
        HeadConfig(name="matching", task="contrastive", out_dim=6, image=IMAGE, max_text=8),
    ),
)
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)
# a pair of 5 + 6 tokens, an image of 5, a text of 4
JOBS = [
    Job("questions", Example(image=PICTURE, tokens=np.array([2, 9, 8, 7, 6, 3], np.int32))),
    Job("matching", Example(image=PICTURE)),
    Job("matching", Example(tokens=np.array([2, 5, 6, 3], np.int32))),
]


def forward(config: ModelConfig = CONFIG):
    torch.manual_seed(0)
    packed, log = pack(JOBS, config), list[Routing]()
    with torch.inference_mode():
        VLMoE(config).eval()(packed, log)
    return packed, log


def test_every_choice_of_every_routed_token_is_a_row() -> None:
    packed, log = forward()
    rows = rows_of(packed, log, CONFIG, step=7, time_us=70, first_request=100, rank=0)
    assert set(rows.step) == {7}
    assert set(rows.time_us) == {70}
    for layer, expected in ((1, {100: (5, 6), 101: (5, 0), 102: (0, 4)}), (3, {101: (5, 0), 102: (0, 4)})):
        # from block 2 on, a pair's tokens go to the fusion pool, which has no router
        here = rows.layer == layer
        assert set(rows.request[here]) == set(expected)
        for request, sizes in expected.items():
            for modality, size in enumerate(sizes):
                mine = here & (rows.request == request) & (rows.modality == modality)
                assert mine.sum() == 2 * size, "two choices a token"
                assert len(set(zip(rows.token[mine], rows.slot[mine], strict=True))) == 2 * size
    pair = (rows.request == 100) & (rows.slot == 0) & (rows.layer == 1)
    # the order of a sequence: text first, so the image begins at position 6
    assert sorted(rows.token[pair & (rows.modality == 1)]) == list(range(6))
    assert sorted(rows.token[pair & (rows.modality == 0)]) == list(range(6, 11))
    assert (rows.gate[rows.slot == 0] >= rows.gate[rows.slot == 1]).all()


def test_a_choice_without_room_is_no_row() -> None:
    config = CONFIG.__class__(**{**{f: getattr(CONFIG, f) for f in CONFIG.__slots__}, "capacity_eval": 0.5})
    packed, log = forward(config)
    rows = rows_of(packed, log, config, 0, 0, 0)
    assert 0 < len(rows) < len(rows_of(*forward(), CONFIG, 0, 0, 0))
    assert rows.expert.min() >= 0


def test_experts_in_a_trace_are_those_of_the_log(tmp_path: Path) -> None:
    packed, log = forward()
    tracer = RoutingTracer(TraceWriter(tmp_path, trace_meta(CONFIG, "m-1")), CONFIG, now_us=lambda: 1000)
    tracer.observe(packed, log)
    tracer.observe(packed, log)
    tracer.close()
    meta = read_meta(tmp_path)
    assert meta is not None
    assert (meta.model_id, meta.layers, meta.pools) == ("m-1", (1, 3), (4, 4))
    load = read_trace(tmp_path)
    assert load.step_Q.tolist() == [0, 0, 0, 1, 1, 1]
    assert load.tokens_Q.tolist() == [11, 5, 4] * 2
    for place, (image, text) in enumerate(zip(log[::2], log[1::2], strict=True)):
        for first, routing in ((0, image), (4, text)):
            expected = np.bincount(routing.experts_TK.flatten().numpy(), minlength=4)
            np.testing.assert_array_equal(load.counts_QLX[:3, place, first : first + 4].sum(axis=0), expected)
