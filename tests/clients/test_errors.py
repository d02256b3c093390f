import pickle
import re

import pytest

from vlmoe_client import ApiError, ConnectFailed, Overloaded, ServerError, VlmoeError, _errors


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 429, 503, 504])
def test_every_documented_status_has_its_own_class(status):
    assert _errors.class_for(status) is _errors.BY_STATUS[status]
    assert _errors.BY_STATUS[status].__doc__.startswith(f"{status}:")


def test_other_statuses_have_the_general_classes():
    assert _errors.class_for(500) is ServerError
    assert _errors.class_for(502) is ServerError
    assert _errors.class_for(418) is ApiError


def test_the_drawn_tree_is_the_tree():
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in _errors.__doc__.splitlines():
        match = re.match(r"^((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:\s|$)", line)
        if match is None or not hasattr(_errors, match.group(2)):
            continue
        depth = len(match.group(1)) // 4
        path[depth:] = [match.group(2)]
        drawn[match.group(2)] = path[depth - 1] if depth else "Exception"
    actual = {
        name: cls.__bases__[0].__name__
        for name, cls in vars(_errors).items()
        if isinstance(cls, type) and issubclass(cls, VlmoeError)
    }
    assert drawn == actual


def test_errors_survive_the_way_between_processes():
    error = Overloaded("busy", status=429, code="overloaded", param="p", request_id="r", retry_after_s=2.0)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is Overloaded
    assert vars(copy) == vars(error)
    assert str(copy) == str(error) == "429 overloaded: busy [p]"
    assert str(pickle.loads(pickle.dumps(ConnectFailed("no", request_id="r")))) == "no"
