import random
from collections import Counter, defaultdict

import pytest

from vlmoe_train.data.scene_language import (
    CATEGORIES,
    KINDS,
    LABELS,
    NOUNS,
    Placed,
    Question,
    QuestionMaker,
    draw_scene,
    plural,
    with_article,
)

CATEGORY_OF = {noun: category for category, nouns in CATEGORIES.items() for noun in nouns}


def answer_by_hand(question: Question, scene: tuple[Placed, ...]) -> str:
    """The answer, worked out from the question's words alone."""
    counts = Counter(placed.noun for placed in scene)
    words = question.text.removesuffix("?")
    match question.kind:
        case "exist":
            noun = words.removeprefix("is there ").split(" ", 1)[1]
            return "yes" if noun in counts else "no"
        case "count":
            asked = words.removeprefix("how many ").removesuffix(" are there")
            return str(sum(n for noun, n in counts.items() if plural(noun) == asked))
        case "count-category":
            asked = words.removeprefix("how many ").removesuffix(" are there")
            return str(sum(CATEGORY_OF[placed.noun] == asked for placed in scene))
        case "compare":
            more, fewer = words.removeprefix("are there more ").split(" than ")
            by_plural = Counter({plural(noun): n for noun, n in counts.items()})
            return "yes" if by_plural[more] > by_plural[fewer] else "no"
        case "where":
            (one,) = [p for p in scene if p.noun == words.removeprefix("where is the ")]
            return f"{('top', 'middle', 'bottom')[one.row]} {('left', 'center', 'right')[one.column]}"
        case "name":
            row, column = words.removeprefix("what is in the ").split()
            place = ("left", "center", "right").index(column), ("top", "middle", "bottom").index(row)
            (answer,) = {p.noun for p in scene if (p.column, p.row) == place}
            return answer
        case _:
            side, noun = (
                words.removeprefix("what is ").split(" the ", 1)
                if "to the" not in words
                else (words.removeprefix("what is to the ").split(" of the ", 1))
            )
            (one,) = [p for p in scene if p.noun == noun]
            is_there = {
                "right": lambda p: p.column > one.column,
                "left": lambda p: p.column < one.column,
                "above": lambda p: p.row < one.row,
                "below": lambda p: p.row > one.row,
            }[side]
            (answer,) = {p.noun for p in scene if is_there(p)}
            return answer


def asked(num_scenes: int, seed: int = 0) -> list[tuple[tuple[Placed, ...], Question]]:
    rng = random.Random(seed)
    maker = QuestionMaker(rng)
    scenes = [draw_scene(rng) for _ in range(num_scenes)]
    return [(scene, question) for scene in scenes for question in maker.ask(scene)]


def test_scenes_fit_their_grid() -> None:
    rng = random.Random(1)
    sizes = set()
    for _ in range(300):
        scene = draw_scene(rng)
        sizes.add(len(scene))
        assert len({(p.column, p.row) for p in scene}) == len(scene)
        assert all(0 <= p.column <= 2 and 0 <= p.row <= 2 and p.noun in NOUNS for p in scene)
        assert 1 <= len({p.noun for p in scene}) <= 3
    assert sizes == {1, 2, 3, 4, 5}


def test_answers_are_right() -> None:
    found = asked(400)
    assert {question.kind for _, question in found} == set(KINDS)
    for scene, question in found:
        assert question.answer == answer_by_hand(question, scene), question
        assert question.answer in LABELS


def test_no_answer_dominates_its_kind() -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _, question in asked(1_500):
        answers[question.kind][question.answer] += 1
    share = {kind: max(found.values()) / found.total() for kind, found in answers.items()}
    assert share["exist"] < 0.51
    assert share["compare"] < 0.51
    assert share["count"] < 0.21
    assert share["count-category"] < 0.19
    assert share["name"] < 0.05
    assert share["where"] < 0.13
    assert share["relate"] < 0.06


def test_the_same_seed_asks_the_same() -> None:
    assert asked(20, seed=3) == asked(20, seed=3)
    assert asked(20, seed=3) != asked(20, seed=4)


def test_labels_are_sorted_and_complete() -> None:
    assert len(NOUNS) == 32
    assert len(LABELS) == 2 + 6 + 9 + 32
    assert list(LABELS) == sorted(set(LABELS))


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("dog", "dogs"),
        ("fish", "fish"),
        ("bus", "buses"),
        ("butterfly", "butterflies"),
        ("key", "keys"),
        ("octopus", "octopuses"),
        ("bunch of grapes", "bunches of grapes"),
        ("loaf of bread", "loaves of bread"),
        ("box of french fries", "boxes of french fries"),
        ("red apple", "red apples"),
    ],
)
def test_plural(noun: str, many: str) -> None:
    assert plural(noun) == many


def test_plurals_are_distinct() -> None:
    assert len({plural(noun) for noun in NOUNS}) == len(NOUNS)


def test_article() -> None:
    assert with_article("owl") == "an owl"
    assert with_article("bunch of grapes") == "a bunch of grapes"
