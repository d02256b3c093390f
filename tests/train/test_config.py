from pathlib import Path

import pytest
import yaml

from vlmoe_train.config import RECIPES, RecipeError, load_recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_package_reads(path: Path):
    config = load_recipe(path.stem)
    assert config.name == path.stem
    assert {task.head for task in config.tasks} == {head.name for head in config.heads}


def test_overrides_win(recipe_file: Path):
    assert load_recipe(str(recipe_file), {"steps": 3, "seed": 9}).steps == 3


def test_unknown_name_lists_what_there_is():
    with pytest.raises(RecipeError, match=r"no recipe 'nothing'; recipes: .*demo"):
        load_recipe("nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [{"data": "x", "head": "nobody", "batch": 1}]}, "names head 'nobody'"),
        ({"tasks": [{"data": "x", "head": "classes", "batch": 0}]}, "batch of x must be positive"),
        (
            {"tasks": [{"data": "x", "head": "classes", "batch": 1, "augment": "twirl"}]},
            "augment must be one of",
        ),
        ({"base": "no/such/checkpoint"}, "either a model or a base"),
        ({"delta": True}, "delta needs a base"),
        ({"model": {"preset": "huge"}}, "model.preset must be one of"),
        ({"model": {"preset": "demo", "dim": 7}}, "not a multiple of num_heads"),
    ],
)
def test_a_wrong_recipe_names_the_field(recipe_file: Path, change: dict, message: str):
    fields = yaml.safe_load(recipe_file.read_text()) | change
    recipe_file.write_text(yaml.safe_dump(fields))
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(recipe_file))


def test_broken_yaml_is_one_error(tmp_path: Path):
    path = tmp_path / "broken.yaml"
    path.write_text("steps: [1")
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(str(path))
