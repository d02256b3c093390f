import subprocess
import sys

import pytest

from vlmoe_serve.call import Call
from vlmoe_serve.telemetry.trace import current_trace, open_traces, traced

WITHOUT = """
import sys
import vlmoe_serve.main
from vlmoe_serve.telemetry.trace import open_traces
assert open_traces("") is None
# FastAPI itself imports the API, which does nothing without an SDK
ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto")
print([name for name in sys.modules if name.startswith(ours)])
"""
MAIN = "import sys; from vlmoe_serve.main import run; sys.exit(run(sys.argv[1:]))"
BLOCKED = """
import sys
sys.modules["opentelemetry.sdk"] = None
from vlmoe_serve.main import run
sys.exit(run(["--otlp", "http://127.0.0.1:4317"]))
"""


def test_calls_belong_to_the_trace_that_they_are_made_in():
    trace = object()
    assert Call().trace is None
    with traced(trace):
        assert Call().trace is trace
        with traced(None):
            assert current_trace() is trace
    assert Call().trace is None


def test_nothing_of_opentelemetry_is_imported_without_a_collector():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert open_traces("") is None


def test_without_the_extra_it_says_what_to_install():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)
    told = 'vlmoe serve: option --otlp needs OpenTelemetry, not installed here: pip install "vlmoe[otel]"\n'
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    "value", ["collector:4317", "http://collector", "grpc://collector:4317", "http://c:1/path"]
)
def test_an_endpoint_is_a_url_with_a_port(value):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "--otlp", value],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "must be http://HOST:PORT, or https://HOST:PORT for TLS" in done.stderr
