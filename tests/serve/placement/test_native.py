"""The C twin says what the numpy truth says, and its absence is no more than slow."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from vlmoe_serve.placement import native
from vlmoe_serve.placement.dispatch import by_counts, shares

HAS_COMPILER = any(map(shutil.which, ("cc", "gcc", "clang")))


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler to build the twin with")
def test_both_say_the_same_to_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rng = np.random.default_rng(1)
    for trial in range(24):
        num_experts, num_ranks = int(rng.integers(1, 16)), int(rng.integers(1, 7))
        counts = rng.poisson(rng.gamma(0.5, 40, (4, num_experts, num_ranks))).astype(np.int32)
        if trial % 4 == 0:
            counts[:, ::2] = 0
        hosts = rng.random((num_experts, num_ranks)) < rng.choice([0.0, 0.1, 0.5])
        hosts[np.arange(num_experts), rng.integers(0, num_ranks, num_experts)] = True
        node_G = (np.arange(num_ranks) // int(rng.integers(1, 5))).astype(np.int32)
        for stream in (0, 7, 50):
            truth = by_counts(counts, hosts, stream=stream, node_G=node_G)
            twin = native.split_by_counts(counts, hosts, stream=stream, node_G=node_G)
            np.testing.assert_array_equal(twin.amounts_BXG, truth.amounts_BXG)
            np.testing.assert_array_equal(twin.traffic_BGG, truth.traffic_BGG)
            for step in range(4):
                flow = native.flow_by_counts(counts[step], hosts, stream=stream, node_G=node_G)
                expected = shares(counts[step], truth.amounts_BXG[step], node_G)
                np.testing.assert_array_equal(flow, expected)
                np.testing.assert_array_equal(flow.sum(axis=2), counts[step])
    assert len(list((tmp_path / "vlmoe").glob("dispatch-*.so"))) == 1


def test_without_a_compiler_numpy_takes_over_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    counts = np.array([[[5, 0], [9, 9]]], np.int32)
    hosts = np.array([[True, True], [False, True]])
    node_G = np.zeros(2, np.int32)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            routed = native.split_by_counts(counts, hosts, stream=0, node_G=node_G)
    np.testing.assert_array_equal(
        routed.amounts_BXG, by_counts(counts, hosts, stream=0, node_G=node_G).amounts_BXG
    )
    flow = native.flow_by_counts(counts[0], hosts, stream=0, node_G=node_G)
    np.testing.assert_array_equal(flow, shares(counts[0], routed.amounts_BXG[0], node_G))
    assert [record.message for record in caplog.records] == [
        "tokens are split over copies by numpy, not in C: no C compiler on the path"
    ]


def test_shapes_that_do_not_fit_are_refused_before_any_pointer_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises((ValueError, IndexError)):
        native.split_by_counts(
            np.zeros((1, 3, 2), np.int32), np.ones((2, 2), bool), stream=0, node_G=np.zeros(2, np.int32)
        )
    with pytest.raises((ValueError, IndexError)):
        native.flow_by_counts(
            np.zeros((3, 2), np.int64), np.ones((2, 2), bool), stream=0, node_G=np.zeros(2, np.int32)
        )
