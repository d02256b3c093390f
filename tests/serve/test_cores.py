"""Cores: the process's own set, and the container's quota of time."""

import os

import pytest

from vlmoe_serve import cores
from vlmoe_serve.cores import encode_threads, num_cores

OWN = len(os.sched_getaffinity(0))


def test_without_a_container_it_is_the_processs_own_set(tmp_path):
    assert num_cores(tmp_path) == OWN


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", OWN),
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("6400000 100000\n", min(OWN, 64)),
        ("150000 100000\n", min(OWN, 2)),
    ],
)
def test_a_quota_caps_it(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert num_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", OWN), ("50000", 1), ("100000", 1)])
def test_the_older_groups_say_it_in_two_files(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert num_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("num", "beside_engines", "beside_gpus"), [(1, 1, 1), (4, 2, 2), (16, 4, 8), (64, 4, 8)]
)
def test_pictures_get_half_of_the_cores_up_to_a_limit(monkeypatch, num, beside_engines, beside_gpus):
    monkeypatch.setattr(cores, "num_cores", lambda: num)
    assert encode_threads(on_gpus=False) == beside_engines
    assert encode_threads(on_gpus=True) == beside_gpus
