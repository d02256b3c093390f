import logging
import sys

from vlmoe_serve.logs import OneLine


def test_an_event_with_a_traceback_is_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("name", logging.ERROR, __file__, 1, "broken\r\n%s", ("x",), sys.exc_info())
    line = OneLine("%(levelname)s %(message)s").format(record)
    assert line.startswith("ERROR broken | x | Traceback")
    assert line.endswith("ValueError: first | second")
    assert "\n" not in line
