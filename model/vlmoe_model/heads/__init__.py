"""What is read off the encoder. HEADS is the table: one class a task.

A head maps one run's states to [N, out_dim]: logits, or unit embeddings.
"""

from collections.abc import Callable, Mapping

from vlmoe_model.config import HeadConfig, ModelConfig
from vlmoe_model.heads.base import Head, States
from vlmoe_model.heads.classification import ImageClassificationHead, TextClassificationHead
from vlmoe_model.heads.contrastive import ContrastiveHead
from vlmoe_model.heads.vqa import VQAHead

HEADS: Mapping[str, Callable[[HeadConfig, ModelConfig], Head]] = {
    "vqa": VQAHead,
    "image_classification": ImageClassificationHead,
    "text_classification": TextClassificationHead,
    "contrastive": ContrastiveHead,
}

__all__ = ["HEADS", "Head", "States"]
