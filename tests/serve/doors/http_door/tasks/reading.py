"""A question, and what an answer that is an error says."""

QUESTION = "is there a red circle"


def error(answer):
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "param"}
    assert answer.json()["error"]["message"]
    assert answer.headers["x-request-id"]
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]
