import asyncio
import io
import json
import logging
import re
import sys

from vlmoe_serve.logs import JsonLine, OneLine, TogetherHandler


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


def test_a_line_says_when():
    record = logging.LogRecord("name", logging.INFO, __file__, 1, "x", (), None)
    layout = OneLine("%(asctime)s %(message)s")
    expected = logging.Formatter("%(asctime)s %(message)s").format(record)
    assert layout.format(record) == layout.format(record) == expected
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} x", expected)
    record.created += 61.5
    assert layout.format(record) == logging.Formatter("%(asctime)s %(message)s").format(record)


class Stream(io.StringIO):
    """Remembers each write."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text):
        self.writes.append(text)
        return len(text)


def logger_to(stream):
    logger = logging.Logger("test")
    handler = TogetherHandler(stream)
    handler.setFormatter(OneLine("%(message)s"))
    logger.addHandler(handler)
    return logger


def test_lines_of_the_event_loop_are_written_together():
    stream = Stream()
    logger = logger_to(stream)

    async def go():
        logger.info("one")
        logger.info("two")
        seen = list(stream.writes)
        while not stream.writes:
            await asyncio.sleep(0.01)
        logger.info("three")
        while len(stream.writes) < 2:
            await asyncio.sleep(0.01)
        return seen

    assert asyncio.run(go()) == []
    assert stream.writes == ["one\ntwo\n", "three\n"]


def test_a_warning_is_written_at_once_behind_what_was_said_before():
    stream = Stream()
    logger = logger_to(stream)

    async def go():
        logger.info("one")
        logger.warning("two")
        return list(stream.writes)

    assert asyncio.run(go()) == ["one\ntwo\n"]


def test_without_an_event_loop_lines_are_written_at_once():
    stream = Stream()
    logger_to(stream).info("one")
    assert stream.writes == ["one\n"]


def test_what_cannot_be_formatted_loses_no_other_line(capsys):
    stream = Stream()
    logger = logger_to(stream)
    logger.info("%d", "x")
    logger.info("two")
    assert stream.writes == ["two\n"]
    assert "Logging error" in capsys.readouterr().err
