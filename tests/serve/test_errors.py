import inspect
import pickle

import pytest

from vlmoe_model.errors import (
    BrokenImageError,
    ImageFormatError,
    ImageTooLargeError,
    InputError,
    TextTooLongError,
)
from vlmoe_serve import errors
from vlmoe_serve.errors import (
    DeadlineExceeded,
    EngineUnavailable,
    Overloaded,
    RequestFailed,
    ServeError,
    ShuttingDown,
    from_input_error,
    retry_after,
)

LEAVES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, ServeError) and cls is not ServeError
]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_leaf_has_its_own_code_and_a_documented_status(leaf):
    assert leaf.status in {400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 422, 429, 431, 503, 504}
    assert [other for other in LEAVES if other.code == leaf.code] == [leaf]
    assert f"{leaf.__name__} " in errors.__doc__
    assert str(leaf.status) in errors.__doc__


def test_errors_survive_a_process_boundary():
    error = Overloaded("queue is 3 s long", retry_after_s=2.2, param="inputs")
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), twin.message, twin.param, twin.retry_after_s) == (
        Overloaded,
        error.message,
        "inputs",
        2.2,
    )
    assert str(twin) == str(error)


def test_retry_after_is_whole_seconds_and_only_where_waiting_helps():
    assert retry_after(Overloaded("x", retry_after_s=0.01)) == 1
    assert retry_after(Overloaded("x", retry_after_s=2.2)) == 3
    assert retry_after(ShuttingDown("x")) == 1
    assert retry_after(EngineUnavailable("x")) == 1
    assert retry_after(RequestFailed("x")) is None
    assert retry_after(DeadlineExceeded("x")) is None


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (ImageFormatError, 415, "unsupported_image"),
        (BrokenImageError, 400, "broken_image"),
        (ImageTooLargeError, 413, "image_too_large"),
        (TextTooLongError, 413, "text_too_long"),
        (InputError, 422, "invalid_field"),
    ],
)
def test_what_a_head_cannot_take_becomes_its_status(kind, status, code):
    error = from_input_error(kind("why"), "inputs[2].image")
    assert (error.status, error.code, error.message, error.param) == (status, code, "why", "inputs[2].image")
