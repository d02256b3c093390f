from pathlib import Path

import numpy as np
import pytest

from vlmoe_model.errors import TextTooLongError
from vlmoe_model.inputs import Job
from vlmoe_model.runner import Runner
from vlmoe_train.data.scene_language import NOUNS
from vlmoe_train.datasets import load_samples
from vlmoe_train.evaluate import predict


def test_answers_are_the_heads_best_label_for_each_row(runner: Runner, data_root: Path) -> None:
    head = runner.config.head("vqa")
    samples = load_samples("easy_vqa", data_root, "train", head.image)
    # more rows than one batch, the last of them an incomplete one
    samples = samples.rows(np.arange(len(samples)).repeat(2)[:150])
    done: list[int] = []
    found = predict.answers(runner, "vqa", samples, done.append)
    assert done == [128, 22]
    processor = runner.directory.processor()
    for row in (0, 60, 149):
        image = samples.images[samples.image_index[row]]
        tokens = processor.text("vqa", samples.texts[row])
        (logits,) = runner.run([Job("vqa", predict.Example(image=image, tokens=tokens))])
        assert found[row] == runner.directory.labels["vqa"][int(logits.argmax())]
    assert len(found) == 150


def test_rows_without_text_need_none(runner: Runner, data_root: Path) -> None:
    head = runner.config.head("fashion")
    samples = load_samples("fashion_mnist", data_root, "test", head.image)
    assert set(predict.answers(runner, "fashion", samples, int)) <= set(samples.labels)


def test_embeddings_are_unit_vectors_in_order(runner: Runner, data_root: Path) -> None:
    head = runner.config.head("retrieval")
    samples = load_samples("emoji", data_root, "test", head.image)
    images = predict.embed_images(runner, "retrieval", samples, int)
    again = predict.embed_images(runner, "retrieval", samples.rows(np.array([5])), int)
    assert images.shape == (len(NOUNS) + 1, 8)
    assert np.allclose(np.linalg.norm(images, axis=1), 1, atol=1e-5)
    assert (again[0] == images[5]).all()
    texts = predict.embed_texts(runner, "retrieval", ["red dog", "cat"], int)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def test_a_text_that_the_head_cannot_take_is_reported(runner: Runner) -> None:
    with pytest.raises(TextTooLongError, match="at most 64"):
        predict.embed_texts(runner, "retrieval", ["dog " * 80], int)
