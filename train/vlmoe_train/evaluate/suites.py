"""One function a data set: from a model and the test split to scores, each beside its baseline.

Heads' labels are met as text, never by index: one head may answer for several data sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmoe_model.config import HeadConfig, ImageSpec
from vlmoe_model.runner import Runner
from vlmoe_train.data.samples import Samples
from vlmoe_train.datasets import load_samples
from vlmoe_train.evaluate import drawing_features
from vlmoe_train.evaluate.baselines import majority_by_group, question_lookup, subset, wanted_answers
from vlmoe_train.evaluate.metrics import (
    accuracy,
    accuracy_by_group,
    image_to_text_ranks,
    recall_at,
    text_to_image_ranks,
)
from vlmoe_train.evaluate.predict import Progress, answers, embed_images, embed_texts

_KS = (1, 5, 10)
# its own, so that the figure does not change with the model's preprocessing
_NEIGHBOUR_SPEC = ImageSpec(size=64, crop="content")


@dataclass(frozen=True, slots=True)
class Score:
    """One figure in 0..1. baseline: the same figure of what `against` names, which learns nothing."""

    name: str
    value: float
    baseline: float
    against: str


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What to evaluate.

    options: of the data set's loader, as in training.
    limit: at most so many test rows, spread evenly; None for all.
    """

    runner: Runner
    head: HeadConfig
    root: Path
    options: Mapping[str, Any]
    limit: int | None
    progress: Progress

    def load(self, dataset: str, split: str) -> Samples:
        """A whole split as the head wants it."""
        return load_samples(dataset, self.root, split, self.head.image, **self.options)

    def test(self, dataset: str, split: str = "test") -> Samples:
        """The rows of a test split that are to be evaluated."""
        return subset(self.load(dataset, split), self.limit)


Suite = Callable[[Request], list[Score]]
# test and train samples -> what the baseline answers to the test samples
Guess = Callable[[Samples, Samples], list[str]]


def fashion_mnist(request: Request) -> list[Score]:
    """Accuracy on the official test images."""
    return _answered(request, "fashion_mnist", "fashion_mnist", ("test",), majority_by_group, "largest class")


def easy_vqa(request: Request) -> list[Score]:
    """Accuracy on the official test questions, whole and by kind of answer."""
    return _answered(request, "easy_vqa", "easy_vqa", ("test",), question_lookup, "question-only lookup")


def scenes(request: Request) -> list[Score]:
    """Accuracy by kind of question, on unseen scenes and then on drawings of an unseen style."""
    splits = ("test", "test_unseen")
    return _answered(request, "scenes", "scenes", splits, majority_by_group, "majority of each kind")


def jsonl(file: str) -> Suite:
    """The suite of a user's own file: accuracy, or recall where the head embeds.

    `{split}` in its name stands for the split.
    """
    stem = Path(file).name.removesuffix(".jsonl").replace("{split}", "").strip("-_. ")
    name = stem or Path(file).parent.name or "own"

    def run(request: Request) -> list[Score]:
        if request.head.task == "contrastive":
            test = request.test(file)
            similarity, targets = _model_similarity(request, test)
            images, captions = similarity.shape
            chance = [min(1.0, k / count) for count in (captions, images) for k in _KS]
            return _recalls(name, similarity, targets, chance, "chance")
        return _answered(request, name, file, ("test",), question_lookup, "question-only lookup")

    return run


def emoji(request: Request) -> list[Score]:
    """Recall of captions by drawings of an unseen style, and the other way round."""
    test = request.test("emoji")
    similarity, targets = _model_similarity(request, test)
    baseline = _recall_values(_neighbour_similarity(request), targets)
    return _recalls("emoji", similarity, targets, baseline, "nearest drawing")


SUITES: dict[str, Suite] = {
    "fashion_mnist": fashion_mnist,
    "easy_vqa": easy_vqa,
    "emoji": emoji,
    "scenes": scenes,
}


def _answered(
    request: Request, name: str, dataset: str, splits: Sequence[str], guess: Guess, against: str
) -> list[Score]:
    train = request.load(dataset, "train")
    scores = []
    for split in splits:
        test = request.test(dataset, split)
        wanted, guessed = wanted_answers(test), guess(train, test)
        given = answers(request.runner, request.head.name, test, request.progress)
        metric = f"{name}.accuracy" + split.removeprefix("test")
        scores.append(Score(metric, accuracy(given, wanted), accuracy(guessed, wanted), against))
        guessed_of = accuracy_by_group(guessed, wanted, test.groups)
        for group, value in accuracy_by_group(given, wanted, test.groups).items():
            scores.append(Score(f"{metric}.{group}", value, guessed_of[group], against))
    return scores


def _model_similarity(
    request: Request, test: Samples
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Similarity of the test images to the captions that have one, and each image's caption among these."""
    concepts = np.unique(test.targets)
    captions = [test.labels[concept] for concept in concepts]
    images = embed_images(request.runner, request.head.name, test, request.progress)
    texts = embed_texts(request.runner, request.head.name, captions, request.progress)
    return images @ texts.T, np.searchsorted(concepts, test.targets)


def _neighbour_similarity(request: Request) -> npt.NDArray[np.float64]:
    train = load_samples("emoji", request.root, "train", _NEIGHBOUR_SPEC)
    test = subset(load_samples("emoji", request.root, "test", _NEIGHBOUR_SPEC), request.limit)
    similarity = drawing_features.concept_similarity(
        drawing_features.features(test.images[test.image_index]),
        drawing_features.features(train.images[train.image_index]),
        train.targets,
        len(train.labels),
    )
    return similarity[:, np.unique(test.targets)]


def _recalls(
    name: str,
    similarity: npt.NDArray[np.float64],
    targets: npt.NDArray[np.int64],
    baseline: Sequence[float],
    against: str,
) -> list[Score]:
    names = [f"{name}.{direction}_r{k}" for direction in ("i2t", "t2i") for k in _KS]
    values = _recall_values(similarity, targets)
    return [Score(n, v, b, against) for n, v, b in zip(names, values, baseline, strict=True)]


def _recall_values(similarity: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> list[float]:
    """Image to text at each k, then text to image at each k."""
    both = (image_to_text_ranks(similarity, targets), text_to_image_ranks(similarity, targets))
    return [recall_at(ranks, k) for ranks in both for k in _KS]
