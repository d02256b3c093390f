import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from vlmoe_train.workers import Worker

SOURCES = [str(Path(__file__).parents[2] / floor) for floor in ("kernels", "model", "train", "clients")]


def test_the_shares_are_a_partition():
    rows = list(range(7))
    shares = [rows[Worker(rank, 3).share] for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows


def test_alone_gradients_stay_and_missing_ones_are_zero():
    reached, missed, frozen = (nn.Parameter(torch.ones(2)) for _ in range(3))
    frozen.requires_grad_(False)
    reached.grad = torch.tensor([1.0, 2.0])
    Worker().average_gradients([reached, missed, frozen])
    assert reached.grad.tolist() == [1.0, 2.0]
    assert missed.grad is not None
    assert missed.grad.tolist() == [0.0, 0.0]
    assert frozen.grad is None


def test_two_workers_take_the_steps_of_one(tmp_path: Path):
    """Same rows, no noise: the mean of two half batches' gradients is the whole batch's gradient."""
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for index in range(16):
        Image.new("RGB", (16, 16), (16 * index, 255 - 16 * index, 90)).save(images / f"{index}.png")
        rows.append({"image": f"images/{index}.png", "label": ("low", "high")[index // 8]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {
            "preset": "demo",
            "dim": 16,
            "num_layers": 2,
            "num_heads": 2,
            "ffn_dim": 24,
            "num_experts": 2,
            "moe_blocks": [1],
            "vl_start": 1,
            "image_size": 16,
            "patch_size": 8,
            "max_text": 8,
            "router_noise": 0.0,
            "aux_loss": "none",
        },
        "steps": 4,
        "warmup_steps": 1,
        "precision": "fp32",
        "heads": [{"name": "h", "task": "image_classification", "image": {"size": 16}, "pool": "mean"}],
        "tasks": [{"data": "rows.jsonl", "head": "h", "batch": 8}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [
        "-m",
        "vlmoe_train",
        "train",
        "--recipe",
        str(tmp_path / "recipe.yaml"),
        "--data",
        str(tmp_path),
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for prefix, out in (([], "one"), (launcher, "two")):
        argv = [sys.executable, *prefix, *command, "--out", str(tmp_path / out)]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / out / "train_state.safetensors") for out in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if name.startswith("weight/"):
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-4, msg=name)
    moved = one["optimizer/exp_avg/network.heads.h.out.weight"]
    assert moved.abs().max() > 0
