"""A tiny checkpoint with the heads of the demo: untrained, but real."""

from pathlib import Path

import pytest
import torch

from vlmoe_model.checkpoint.weights import save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.runner import Runner
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_train.data import easy_vqa, fashion_mnist, scene_language

ANSWERS = tuple(dict.fromkeys((*easy_vqa.LABELS, *scene_language.LABELS)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_wordpiece(
        ["what is there ? how many red dogs are to the right of the cat", *ANSWERS], 200
    )
    config = ModelConfig(
        dim=16,
        num_layers=2,
        num_heads=2,
        ffn_dim=16,
        vocab_size=tokenizer.vocab_size,
        image_size=16,
        patch_size=8,
        max_text=64,
        moe_blocks=(1,),
        num_experts=2,
        heads=(
            HeadConfig(name="vqa", task="vqa", out_dim=len(ANSWERS), image=ImageSpec(size=16), max_text=64),
            HeadConfig(
                name="fashion",
                task="image_classification",
                out_dim=10,
                image=ImageSpec(size=16),
                max_text=0,
            ),
            HeadConfig(
                name="retrieval",
                task="contrastive",
                out_dim=8,
                image=ImageSpec(size=16, crop="content"),
                max_text=64,
            ),
        ),
    )
    torch.manual_seed(0)
    network = VLMoE(config)
    labels = {"vqa": ANSWERS, "fashion": fashion_mnist.LABELS}
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(path, config, network.state_dict(), tokenizer, labels)
    return path


@pytest.fixture(scope="session")
def runner(checkpoint: Path) -> Runner:
    return Runner.load(checkpoint, dtype="fp32")
