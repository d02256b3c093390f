from pathlib import Path

import pytest

from vlmoe_serve.option_readers import ModelChoice
from vlmoe_serve.option_sources import ENV_PREFIX, UsageError, parse_options
from vlmoe_serve.options import OPTIONS

# one allowed value an option that is not its default
OTHER = {
    "model": ("/a/b", (ModelChoice("b", "/a/b"),)),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "device": ("cpu", "cpu"),
    "dtype": ("bf16", "bf16"),
    "grpc_port": ("9001", 9001),
    "ranks": ("2", 2),
    "capacity": ("0.5", 0.5),
    "overflow": ("reroute", "reroute"),
    "experts_per_token": ("1", 1),
    "brownout": ("on", "on"),
    "nodes": ("2", 2),
    "node_rank": ("1", 1),
    "rendezvous": ("Node-0.example:29500", "node-0.example:29500"),
    "rendezvous_key_file": ("/tmp/r", Path("/tmp/r")),
    "placement": ("planner", "planner"),
    "rebalance": ("on", "on"),
    "engine": ("vllm", "vllm"),
    "vllm": ("enable_eplb=true", (("enable_eplb", "true"),)),
    "threads": ("3", 3),
    "data_dir": ("/tmp/d", Path("/tmp/d")),
    "api_key_file": ("/tmp/k", Path("/tmp/k")),
    "model_root": ("models", Path("models")),
    "admin_key_file": ("admins", Path("admins")),
    "tls_cert": ("/tmp/c", Path("/tmp/c")),
    "tls_key": ("/tmp/c", Path("/tmp/c")),
    "tls_client_ca": ("/tmp/c", Path("/tmp/c")),
    "max_connections": ("7", 7),
    "max_key_concurrency": ("3", 3),
    "max_key_rate": ("0.5", 0.5),
    "allow_url_host": ("Pictures.example:8443", ("pictures.example:8443",)),
    "max_image_pixels": ("1000", 1000),
    "cache_mb": ("1.5", 1.5),
    "max_body_mb": ("0.5", 0.5),
    "max_queue_ms": ("50", 50.0),
    "trace_routing": ("/tmp/t", Path("/tmp/t")),
    "log_format": ("json", "json"),
    "otlp": ("http://collector:4317", "http://collector:4317"),
    "expert_memory_mb": ("1.5", 1.5),
    "drain_s": ("1.5", 1.5),
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_every_option_works_as_flag_variable_and_key(name, tmp_path):
    text, value = OTHER[name]
    assert getattr(parse_options([], {}), name) != value
    flag = "--" + name.replace("_", "-")
    assert getattr(parse_options([flag, text], {}), name) == value
    assert getattr(parse_options([], {ENV_PREFIX + name.upper(): text}), name) == value
    for key in (name, name.replace("_", "-")):
        file = tmp_path / "serve.yaml"
        file.write_text(f"{key}: {text}\n")
        assert getattr(parse_options(["--config", str(file)], {}), name) == value
        assert getattr(parse_options([], {"VLMOE_SERVE_CONFIG": str(file)}), name) == value


def test_flags_beat_variables_and_variables_beat_the_file(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nhost: filehost\ndrain-s: 3\n")
    options = parse_options(
        ["--config", str(file), "--port", "3"], {"VLMOE_SERVE_PORT": "2", "VLMOE_SERVE_HOST": "envhost"}
    )
    assert (options.port, options.host, options.drain_s) == (3, "envhost", 3.0)


def test_models_have_names():
    options = parse_options(["--model", "vqa=/x/y", "--model", "/x/my model", "a=b/c=d"], {})
    assert options.model == (
        ModelChoice("vqa", "/x/y"),
        ModelChoice("my-model", "/x/my model"),
        ModelChoice("a", "b/c=d"),
    )
    assert parse_options([], {"VLMOE_SERVE_MODEL": "a=/x,b=/y"}).model == (
        ModelChoice("a", "/x"),
        ModelChoice("b", "/y"),
    )
    assert parse_options([], {}).model == (ModelChoice("demo", "demo"),)


def test_threads_are_as_many_as_fit_unless_somebody_says():
    assert parse_options([], {}).threads == parse_options(["--threads", "auto"], {}).threads == 0


def test_variables_of_others_are_not_touched():
    assert (
        parse_options([], {"VLMOE_SERVICE_HOST": "10.0.0.1", "VLMOE_PORT": "tcp://x", "PORT": "1"}).port
        == 8000
    )


@pytest.mark.parametrize(
    ("argv", "environ", "file", "says"),
    [
        (["--prot", "1"], {}, None, "--prot"),
        (["--po", "1"], {}, None, "--po"),
        (["--grpc-port", "70000"], {}, None, "--grpc-port"),
        (["--port", "70000"], {}, None, "0 to 65535, got '70000'"),
        (["--port", "-1"], {}, None, "--port"),
        (["--max-body-mb", "nan"], {}, None, "--max-body-mb: must be a number"),
        (["--device", "tpu"], {}, None, "must be one of auto, cpu, cuda, got 'tpu'"),
        (["--model", "a="], {}, None, "path must follow"),
        (["--model", "x/m", "y/m"], {}, None, "share a name"),
        ([], {"VLMOE_SERVE_PROT": "1"}, None, "unknown variable VLMOE_SERVE_PROT"),
        ([], {"VLMOE_SERVE_port": "1"}, None, "unknown variable VLMOE_SERVE_port"),
        ([], {"VLMOE_SERVE_PORT": "tcp://x"}, None, "VLMOE_SERVE_PORT"),
        ([], {}, "prot: 1", "unknown key 'prot'"),
        ([], {}, "config: x", "unknown key 'config'"),
        ([], {}, "port: [1, 2]", "takes one value, got 2"),
        ([], {}, "port: true", "takes a text or a number"),
        ([], {}, "port: null", "takes a text or a number"),
        ([], {}, "model: []", "takes one value"),
        ([], {}, "max-body-mb: 1\nmax_body_mb: 2", "twice"),
        ([], {}, "port: 1\nhost: a\nport: 2", "'port' is given twice"),
        ([], {}, "port: {a: 1, a: 2}", "'a' is given twice"),
        ([], {}, "a: &x {port: 1}\n<<: *x\nport: 2", "unknown key 'a'"),
        ([], {}, "port: !!python/object/apply:os.getpid []", "cannot be read"),
        ([], {}, "- port", "must hold"),
        ([], {}, "a: [", "cannot be read"),
        (
            ["--config", "/does/not/exist"],
            {},
            None,
            "/does/not/exist: cannot be read: No such file or directory",
        ),
        (["--cache-mb", "-1"], {}, None, "--cache-mb: must be a number from 0 to 1048576, got '-1'"),
        (["--portt", "1"], {}, None, "unrecognized arguments: --portt 1 (see vlmoe serve --help)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(argv, environ, file, says, tmp_path):
    if file is not None:
        path = tmp_path / "serve.yaml"
        path.write_text(file)
        argv = [*argv, "--config", str(path)]
    with pytest.raises(UsageError) as caught:
        parse_options(argv, environ)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(["--help"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in text for name in [*OTHER, "config"])
