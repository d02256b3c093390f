import json

import pytest

from vlmoe_serve.errors import Overloaded, ServeError, SpaceConflict, Unauthorized
from vlmoe_serve.http_door.errors import error_response, internal_error


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Overloaded("wait is 3 s", retry_after_s=1.2), 429, {"retry-after": "2"}),
        (Unauthorized("a key is needed"), 401, {"www-authenticate": "Bearer"}),
        (SpaceConflict("other space", param="collection"), 409, {}),
    ],
)
def test_an_error_becomes_status_headers_and_body(error, status, headers):
    answer = error_response(error)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in headers} == headers
    assert ("retry-after" in answer.headers) is ("retry-after" in headers)
    assert json.loads(answer.body) == {
        "error": {"code": error.code, "message": error.message, "param": error.param}
    }


def test_what_nobody_foresaw_says_nothing_about_itself():
    answer = internal_error()
    assert answer.status_code == ServeError.status == 500
    assert json.loads(answer.body)["error"] == {
        "code": "internal_error",
        "message": "internal error",
        "param": None,
    }
