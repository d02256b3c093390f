import json
import logging
import sys

from vlmoe_serve.logs import JsonLine, OneLine


def test_an_event_with_a_traceback_is_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "broken\r\n%s", ("x",), sys.exc_info())
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert line.startswith("ERROR broken | x | Traceback")
    assert line.endswith("ValueError: first | second")
    assert "\n" not in line


def test_json_has_an_object_a_line_with_the_events_fields():
    record = logging.LogRecord(
        "vlmoe_serve.access", logging.INFO, __file__, 1, "GET %s\n\u2028", ("/",), None
    )
    record.data = {"status": 200, "request_id": 'a"b'}
    line = JsonLine().format(record)
    assert "\n" not in line
    assert line.isascii()
    fields = json.loads(line)
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "INFO",
        "logger": "vlmoe_serve.access",
        "message": "GET /\n\u2028",
        "status": 200,
        "request_id": 'a"b',
    }


def test_json_carries_a_traceback_in_its_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "broken", (), sys.exc_info())
    line = JsonLine().format(record)
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: first\nsecond")
