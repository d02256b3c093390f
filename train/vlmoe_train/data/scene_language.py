"""Composed scenes in words: the nouns, the plan of a scene, and the questions about it with their answers.

    random -> draw_scene -> Placed objects -> QuestionMaker.ask -> (question, answer, kind)

A `QuestionMaker` counts the answers it gave and picks, of the questions that a scene allows, one whose answer
is behind: otherwise a model could do well by always giving the most frequent answer of each kind.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

# how a category is called -> noun -> caption of its drawing
CATEGORIES: dict[str, dict[str, str]] = {
    "animals": {
        "dog": "dog face",
        "cat": "cat face",
        "lion": "lion",
        "pig": "pig face",
        "frog": "frog",
        "penguin": "penguin",
        "butterfly": "butterfly",
        "elephant": "elephant",
    },
    "food items": {
        "red apple": "red apple",
        "banana": "banana",
        "bunch of grapes": "grapes",
        "strawberry": "strawberry",
        "carrot": "carrot",
        "hamburger": "hamburger",
        "doughnut": "doughnut",
        "watermelon": "watermelon",
    },
    "vehicles": {
        "car": "automobile",
        "bus": "bus",
        "bicycle": "bicycle",
        "airplane": "airplane",
        "rocket": "rocket",
        "sailboat": "sailboat",
        "tractor": "tractor",
        "helicopter": "helicopter",
    },
    "household items": {
        "soccer ball": "soccer ball",
        "key": "key",
        "guitar": "guitar",
        "umbrella": "umbrella",
        "alarm clock": "alarm clock",
        "light bulb": "light bulb",
        "pair of scissors": "scissors",
        "balloon": "balloon",
    },
}

CAPTION_OF = {noun: caption for nouns in CATEGORIES.values() for noun, caption in nouns.items()}
NOUNS = tuple(CAPTION_OF)
KINDS = ("exist", "count", "count-category", "name", "where", "relate", "compare")
MAX_OBJECTS = 5
# questions of a kind about one scene, where it allows as many; two of those that tie names to places
_ASKED = {"name": 2, "where": 2}

_CATEGORY_OF = {noun: category for category, nouns in CATEGORIES.items() for noun in nouns}
_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "center", "right")
_CELLS = tuple((column, row) for row in range(3) for column in range(3))
# single objects, from which names are learned soonest; then more scenes with many objects than with few, because
# large counts need many of one noun
_NUM_OBJECTS = (1, 2, 3, 4, 5)
_NUM_OBJECTS_WEIGHTS = (6, 3, 3, 5, 7)

LABELS = tuple(
    sorted(
        {
            "yes",
            "no",
            *(str(count) for count in range(MAX_OBJECTS + 1)),
            *(f"{row} {column}" for row in _ROWS for column in _COLUMNS),
            *NOUNS,
        }
    )
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A noun in a cell of the 3x3 grid; row 0 is the top one."""

    noun: str
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one scene, its answer, and its kind."""

    text: str
    answer: str
    kind: str


def plural(noun: str) -> str:
    """The plural of one of the nouns."""
    head, joint, rest = noun.partition(" of ")
    if head == "fish":
        return noun
    if head == "loaf":
        return f"loaves{joint}{rest}"
    if head.endswith("y") and head[-2] not in "aeou":
        return f"{head[:-1]}ies{joint}{rest}"
    ending = "es" if head.endswith(("ch", "s", "x", "sh")) else "s"
    return f"{head}{ending}{joint}{rest}"


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def draw_scene(rng: random.Random) -> tuple[Placed, ...]:
    """One to five objects of one to three nouns, in different cells."""
    num_objects = rng.choices(_NUM_OBJECTS, _NUM_OBJECTS_WEIGHTS)[0]
    num_nouns = min(rng.randint(1, 3), num_objects)
    nouns = rng.sample(NOUNS, num_nouns)
    # every drawn noun is there at least once
    chosen = nouns + [rng.choice(nouns) for _ in range(num_objects - num_nouns)]
    cells = rng.sample(_CELLS, num_objects)
    return tuple(Placed(noun, column, row) for noun, (column, row) in zip(chosen, cells, strict=True))


class QuestionMaker:
    """Asks about one scene after the other, and keeps each kind's answers even."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._given: dict[str, Counter[str]] = defaultdict(Counter)

    def ask(self, scene: tuple[Placed, ...]) -> list[Question]:
        """One question of each kind, two of some: those that the scene allows."""
        candidates = {
            "exist": self._exist(scene),
            "count": self._count(scene),
            "count-category": self._count_category(scene),
            "name": _name(scene),
            "where": _where(scene),
            "relate": _relate(scene),
            "compare": _compare(scene),
        }
        questions = []
        for kind, found in candidates.items():
            for _ in range(min(_ASKED.get(kind, 1), len(found))):
                question = self._pick(kind, found)
                found.remove((question.text, question.answer))
                questions.append(question)
        return questions

    def _pick(self, kind: str, candidates: list[tuple[str, str]]) -> Question:
        given = self._given[kind]
        fewest = min(given[answer] for _, answer in candidates)
        # first the answer, then its question: an answer with many questions is not likelier
        answers = sorted({answer for _, answer in candidates if given[answer] == fewest})
        answer = self._rng.choice(answers)
        text = self._rng.choice([text for text, its_answer in candidates if its_answer == answer])
        given[answer] += 1
        return Question(text, answer, kind)

    def _absent(self, scene: tuple[Placed, ...]) -> str:
        present = {placed.noun for placed in scene}
        # half of the time a noun of a category that is there, which a glance does not rule out
        category = _CATEGORY_OF[self._rng.choice(scene).noun]
        pool = CATEGORIES[category] if self._rng.random() < 0.5 else NOUNS
        return self._rng.choice([noun for noun in pool if noun not in present])

    def _exist(self, scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
        found = [(noun, "yes") for noun in _present(scene)] + [(self._absent(scene), "no")]
        return [(f"is there {with_article(noun)}?", answer) for noun, answer in found]

    def _count(self, scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
        counts = Counter(placed.noun for placed in scene)
        nouns = [*_present(scene), self._absent(scene)]
        return [(f"how many {plural(noun)} are there?", str(counts[noun])) for noun in nouns]

    def _count_category(self, scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
        counts = Counter(_CATEGORY_OF[placed.noun] for placed in scene)
        return [(f"how many {category} are there?", str(counts[category])) for category in CATEGORIES]


def _present(scene: tuple[Placed, ...]) -> list[str]:
    return sorted({placed.noun for placed in scene})


def _single(scene: tuple[Placed, ...]) -> list[Placed]:
    counts = Counter(placed.noun for placed in scene)
    return [placed for placed in scene if counts[placed.noun] == 1]


def _name(scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
    return [(f"what is in the {_ROWS[p.row]} {_COLUMNS[p.column]}?", p.noun) for p in scene]


def _where(scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
    return [(f"where is the {p.noun}?", f"{_ROWS[p.row]} {_COLUMNS[p.column]}") for p in _single(scene)]


def _relate(scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
    found = []
    for one in _single(scene):
        sides: dict[str, Iterable[Placed]] = {
            "to the right of": (other for other in scene if other.column > one.column),
            "to the left of": (other for other in scene if other.column < one.column),
            "above": (other for other in scene if other.row < one.row),
            "below": (other for other in scene if other.row > one.row),
        }
        for words, others in sides.items():
            nouns = {other.noun for other in others}
            if len(nouns) == 1:
                found.append((f"what is {words} the {one.noun}?", nouns.pop()))
    return found


def _compare(scene: tuple[Placed, ...]) -> list[tuple[str, str]]:
    counts = Counter(placed.noun for placed in scene)
    return [
        (f"are there more {plural(a)} than {plural(b)}?", "yes" if counts[a] > counts[b] else "no")
        for a in sorted(counts)
        for b in sorted(counts)
        if a != b
    ]
