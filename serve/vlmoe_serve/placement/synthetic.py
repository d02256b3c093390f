"""Made-up routing traces with the habits of real ones, for tests and for what the demo model cannot show.

Requests arrive in steps. The mix of images, texts and questions about images changes in long stretches. Every request
is about a few of a number of topics; topics come and go, sometimes in bursts, and what they mean drifts over the trace.
A token's topic chooses a cluster, and a cluster prefers one expert in every layer, so layers are correlated. How often
experts are chosen overall follows Zipf's law.
"""

# C = clusters (as many as experts), P = topics

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmoe_serve.placement.load import Load
from vlmoe_serve.placement.trace_format import Rows, TraceMeta

# (image tokens to choose from, text tokens from, to) of a question about an image, a text, an image
_KINDS = (((577, 901), 10, 30), ((), 10, 40), ((577,), 0, 0))
# shares of tokens in the three modes that the mix changes between
_MODES = np.array([[0.70, 0.20, 0.10], [0.25, 0.65, 0.10], [0.20, 0.10, 0.70]])
_STAY = 0.98
_PULL = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """What to make.

    skew: exponent s of Zipf's law. focus: the smaller, the fewer topics a request is about. drift: share of topics'
    meaning that is new at the end. burst: chance that one begins in a step. loyalty: chance that a token takes its
    cluster's expert; otherwise any, by Zipf.
    """

    seed: int = 0
    num_steps: int = 576
    tokens_per_step: int = 8200
    num_layers: int = 6
    num_experts: int = 32
    num_topics: int = 16
    skew: float = 1.0
    focus: float = 1.0
    drift: float = 0.3
    burst: float = 0.02
    loyalty: float = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One sequence and the expert of every token in every layer; image tokens first."""

    step: int
    num_image: int
    num_text: int
    experts_LN: npt.NDArray[np.int16]


def requests(spec: Synthetic) -> Iterator[Request]:
    """Every request, step by step; the same for the same `spec`."""
    rng = np.random.default_rng([spec.seed, 7])
    zipf_E: npt.NDArray[np.float64] = np.arange(1, spec.num_experts + 1, dtype=np.float64) ** -spec.skew
    zipf_E /= zipf_E.sum()
    # by pool: what a topic talks about at the start and at the end, and which expert a cluster prefers
    topics = [_topics(rng, spec, zipf_E) for _ in range(2)]
    prefers = [_prefers(rng, spec) for _ in range(2)]
    weight_P = np.zeros(spec.num_topics)
    mode, burst_left, burst_topic = 0, 0, 0
    for step in range(spec.num_steps):
        if rng.random() > _STAY:
            mode = int(rng.integers(len(_MODES)))
        weight_P = _PULL * weight_P + np.sqrt(1 - _PULL**2) * rng.normal(size=spec.num_topics)
        share_P = np.exp(weight_P - weight_P.max())
        share_P /= share_P.sum()
        if burst_left == 0 and rng.random() < spec.burst:
            burst_left, burst_topic = int(rng.integers(8, 26)), int(rng.integers(spec.num_topics))
        if burst_left:
            burst_left -= 1
            share_P = 0.5 * share_P
            share_P[burst_topic] += 0.5
        now = step / max(1, spec.num_steps - 1)
        left = spec.tokens_per_step
        while left > 0:
            images, low, high = _KINDS[int(rng.choice(3, p=_request_shares(mode)))]
            num_image = int(rng.choice(images)) if images else 0
            num_text = int(rng.integers(low, high + 1)) if high else 0
            mix_P = rng.dirichlet(spec.focus * share_P + 1e-3)
            parts = [
                _experts(rng, spec, zipf_E, mix_P @ ((1 - now) * start + now * end), prefer, num)
                for (start, end), prefer, num in zip(topics, prefers, (num_image, num_text), strict=True)
            ]
            left -= num_image + num_text
            yield Request(step, num_image, num_text, np.concatenate(parts, axis=1))


def synthetic_load(spec: Synthetic) -> Load:
    """The trace as a planner sees it, without writing it."""
    step, tokens, counts = [], [], []
    for request in requests(spec):
        step.append(request.step)
        tokens.append(request.num_image + request.num_text)
        key_LN = request.experts_LN + 2 * spec.num_experts * np.arange(spec.num_layers)[:, None]
        key_LN[:, request.num_image :] += spec.num_experts
        size = 2 * spec.num_experts * spec.num_layers
        counts.append(np.bincount(key_LN.ravel(), minlength=size).astype(np.uint16))
    return Load(
        _blocks(spec),
        (spec.num_experts, spec.num_experts),
        np.array(step, np.int64),
        np.array(tokens, np.int64),
        np.stack(counts).reshape(len(step), spec.num_layers, -1),
        np.zeros(len(step), np.int16),
    )


def synthetic_rows(spec: Synthetic) -> Iterator[Rows]:
    """The trace as a recorder writes it, one request at a time, a step every 50 ms."""
    layers = np.array(_blocks(spec), np.int16)
    for number, request in enumerate(requests(spec)):
        num_layers, num_tokens = request.experts_LN.shape
        size = num_layers * num_tokens
        modality = (np.arange(num_tokens) >= request.num_image).astype(np.int8)
        yield Rows(
            step=np.full(size, request.step, np.int64),
            time_us=np.full(size, 50_000 * request.step, np.int64),
            rank=np.zeros(size, np.int16),
            request=np.full(size, number, np.int64),
            token=np.tile(np.arange(num_tokens, dtype=np.int32), num_layers),
            modality=np.tile(modality, num_layers),
            layer=np.repeat(layers, num_tokens),
            slot=np.zeros(size, np.int8),
            expert=request.experts_LN.ravel(),
            gate=np.ones(size, np.float16),
        )


def synthetic_meta(spec: Synthetic) -> TraceMeta:
    """The description that goes with `synthetic_rows`."""
    return TraceMeta(
        model_id="synthetic", layers=_blocks(spec), pools=(spec.num_experts, spec.num_experts), num_ranks=1
    )


def _blocks(spec: Synthetic) -> tuple[int, ...]:
    return tuple(range(1, 2 * spec.num_layers, 2))


def _request_shares(mode: int) -> npt.NDArray[np.float64]:
    """Shares of tokens to shares of requests: a text is much shorter than an image."""
    mean_tokens = np.array([(577 + 901) / 2 + 20, 25.0, 577.0])
    share = _MODES[mode] / mean_tokens
    normed: npt.NDArray[np.float64] = share / share.sum()
    return normed


def _topics(
    rng: np.random.Generator, spec: Synthetic, zipf_E: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """[topics, clusters] at the start and at the end: peaked distributions whose mean is about Zipf's."""
    start = rng.dirichlet(spec.num_experts * 0.5 * zipf_E + 1e-3, size=spec.num_topics)
    new = rng.dirichlet(spec.num_experts * 0.5 * zipf_E + 1e-3, size=spec.num_topics)
    return start, (1 - spec.drift) * start + spec.drift * new


def _prefers(rng: np.random.Generator, spec: Synthetic) -> npt.NDArray[np.int16]:
    """[layers, clusters]: the expert that a cluster prefers; another order in every layer."""
    return np.stack([rng.permutation(spec.num_experts) for _ in range(spec.num_layers)]).astype(np.int16)


def _experts(
    rng: np.random.Generator,
    spec: Synthetic,
    zipf_E: npt.NDArray[np.float64],
    mix_C: npt.NDArray[np.float64],
    prefer_LC: npt.NDArray[np.int16],
    num_tokens: int,
) -> npt.NDArray[np.int16]:
    """[layers, tokens]: one cluster for a token's whole way, an expert in each layer."""
    cluster_N = np.searchsorted(mix_C.cumsum(), mix_C.sum() * rng.random(num_tokens), side="right")
    size = (spec.num_layers, num_tokens)
    stray_LN = np.searchsorted(zipf_E.cumsum(), zipf_E.sum() * rng.random(size), side="right")
    last = spec.num_experts - 1
    loyal = prefer_LC[:, np.minimum(cluster_N, last)]
    strays = np.take_along_axis(prefer_LC, np.minimum(stray_LN, last), axis=1)
    return np.where(rng.random(size) < spec.loyalty, loyal, strays).astype(np.int16)
