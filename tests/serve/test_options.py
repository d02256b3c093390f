import pytest

from vlmoe_serve.options import DEFAULTS, OPTIONS, ModelChoice, Options


def test_every_field_is_an_option_with_a_text_for_help():
    assert set(OPTIONS) == set(Options.__dataclass_fields__)
    assert all(option.help and option.metavar for option in OPTIONS.values())


@pytest.mark.parametrize(
    ("text", "name", "path"),
    [
        ("demo", "demo", "demo"),
        ("a=b", "a", "b"),
        ("a=b=c", "a", "b=c"),
        ("dir/x=y", "x-y", "dir/x=y"),
        ("/m/vqa.v2", "vqa.v2", "/m/vqa.v2"),
        ("/m/caf\u00e9 1", "caf--1", "/m/caf\u00e9 1"),
        ("/", "model", "/"),
    ],
)
def test_a_model_is_called_by_its_name_or_its_directory(text, name, path):
    assert OPTIONS["model"].read(text) == ModelChoice(name, path)


def test_megabytes_are_decimal():
    assert DEFAULTS.max_body_bytes == 32_000_000
