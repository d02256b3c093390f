"""Whatever the chart, the rules, the dashboard and the images name exists in the server, and nothing is misnamed."""

import json
import re
from pathlib import Path

import pytest
import yaml

from vlmoe_serve.engine.supervisor import SupervisorOptions
from vlmoe_serve.metrics import Metrics
from vlmoe_serve.nodes import rendezvous_of
from vlmoe_serve.option_sources import ENV_PREFIX, UsageError, parse_options
from vlmoe_serve.options import DEFAULTS, OPTIONS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "vlmoe"
CASES = sorted(path.name for path in (*CHART.glob("ci/*.yaml"), *CHART.glob("values-*.yaml")))
SERVER = ROOT / "serve" / "vlmoe_serve"
METRIC_FILES = ("metrics.py", "engine_metrics.py", "lifecycle.py")


def snake(camel):
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), camel)


def schema():
    return json.loads((CHART / "values.schema.json").read_text())["properties"]


def queries():
    """(where, expression) of everything that Prometheus is asked."""
    for name in ("recording.yaml", "alerts.yaml"):
        for group in yaml.safe_load((CHART / "files" / name).read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for text in ("templates/autoscaling.yaml",):
        yield text, "".join(re.findall(r"query: \|-\n(.+)", (CHART / text).read_text()))


def known_series():
    """Names of all series that a server can show, and of those that rules record."""
    names = set()
    for family in [*Metrics().registry.collect()]:
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + end for end in ends}
    text = "".join((SERVER / name).read_text() for name in METRIC_FILES)
    watched = re.findall(r"watch(?:_one)?\(\s*\"(\w+)\"", text)
    for kind, name in re.findall(r"(Counter|Gauge)MetricFamily\(\s*\"(\w+)\"", text):
        names.add(name + ("_total" if kind == "Counter" else ""))
    recorded = yaml.safe_load((CHART / "files" / "recording.yaml").read_text())["groups"]
    names |= {f"vlmoe_{name}" for name in watched}
    return names | {rule["record"] for group in recorded for rule in group["rules"]}


def test_every_metric_exists():
    known = known_series()
    assert {"vlmoe_queue_depth", "vlmoe_engine_up", "vlmoe_requests_total"} <= known
    asked = {
        (where, name)
        for where, expression in queries()
        for name in re.findall(r"\bvlmoe[_:][a-z_:0-9]+", re.sub(r'"[^"]*"', "", expression))
    }
    assert {(where, name) for where, name in asked if name not in known} == set()


def test_every_label_exists():
    """Labels of the server's series, and those that Prometheus gives to a target."""
    given = {"job", "namespace", "instance", "le"}
    text = "".join((SERVER / name).read_text() for name in METRIC_FILES)
    for where, expression in queries():
        for label in re.findall(r"[{,]\s*(\w+)(?:=~|!~|!=|=)", expression):
            assert label in given or f'"{label}"' in text, (where, label)


def test_every_option_of_the_schema_is_the_servers():
    for name in schema()["options"]["properties"]:
        assert snake(name) in OPTIONS, name


@pytest.mark.deploy
def test_the_chart_can_set_every_option_or_sets_it_itself():
    own = {"model", "host", "port", "data_dir", "api_key_file", "drain_s", "tls_cert", "tls_key", "grpc_port"}
    own |= {"model_root", "admin_key_file"}
    # of a group of pods
    own |= {"nodes", "node_rank", "rendezvous", "rendezvous_key_file"}
    # probes have no certificate to show
    own |= {"tls_client_ca"}
    assert {snake(name) for name in schema()["options"]["properties"]} | own == set(OPTIONS)


def test_the_charts_drain_is_the_servers():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["drainSeconds"] == DEFAULTS.drain_s


@pytest.mark.deploy
@pytest.mark.parametrize("case", CASES)
def test_the_server_takes_the_arguments_and_variables(render, container, case):
    first = container(render(case))
    variables = {each["name"]: each.get("value", "1") for each in first.get("env", [])}
    assert first["command"] == ["vlmoe"]
    # as Kubernetes fills them in; the second is given by the LeaderWorkerSet
    known = {**variables, "LWS_LEADER_ADDRESS": "r1-vlmoe-group-0.r1-vlmoe-group.serving"}
    arguments = [re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], each) for each in first["args"][1:]]
    options = parse_options(arguments, variables)
    where = rendezvous_of(options)
    group_port = set() if where is None else {where.port}
    assert first["args"][0] == "serve"
    assert options.host == "0.0.0.0"
    ports = {options.port, options.grpc_port} - {0} | group_port
    assert {port["containerPort"] for port in first["ports"]} == ports
    assert str(options.data_dir) in {mount["mountPath"] for mount in first["volumeMounts"]}
    folders = {mount["mountPath"] for mount in first["volumeMounts"]}
    files = (options.api_key_file, options.admin_key_file, options.tls_cert, options.tls_key)
    files += (options.rendezvous_key_file,)
    assert {str(file.parent) for file in files if file is not None} <= folders
    assert options.model_root is None or str(options.model_root) in folders


@pytest.mark.deploy
def test_a_variable_that_the_server_does_not_know_would_be_seen(render, container):
    first = container(render("", 'extraEnv=[{"name": "VLMOE_SERVE_MAX_BODY", "value": "8"}]'))
    assert first["env"][0]["name"].startswith(ENV_PREFIX)
    with pytest.raises(UsageError, match="unknown variable"):
        parse_options(first["args"][1:], {each["name"]: each["value"] for each in first["env"]})


@pytest.mark.deploy
def test_probes_and_scrapes_ask_for_open_routes_of_the_server(render, container):
    objects = render("monitoring.yaml")
    first = container(objects)
    routes = set(re.findall(r'@router.get\("(/[\w/]*)"', (SERVER / "http_door" / "system.py").read_text()))
    ports = {port["name"] for port in first["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert first[probe]["httpGet"]["path"] in routes
        assert first[probe]["httpGet"]["port"] in ports
    (endpoint,) = objects["ServiceMonitor/r1-vlmoe"]["spec"]["endpoints"]
    assert endpoint["path"] in routes
    services = {port["name"]: port["targetPort"] for port in objects["Service/r1-vlmoe"]["spec"]["ports"]}
    assert services[endpoint["port"]] in ports


@pytest.mark.deploy
def test_a_node_without_doors_answers_the_probes(render, container):
    first = container(render("group.yaml"))
    text = (SERVER / "node_lifecycle.py").read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f'"{first[probe]["httpGet"]["path"]}"' in text


@pytest.mark.deploy
def test_starting_may_take_as_long_as_the_server_gives_itself(render, container):
    probe = container(render())["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > SupervisorOptions().start_timeout_s


@pytest.mark.deploy
def test_routes_name_services_that_the_server_has(render):
    text = "".join(
        path.read_text() for path in (*SERVER.glob("grpc_door/*.py"), *(ROOT / "clients").rglob("*_pb2*.py"))
    )
    rules = render("routes.yaml")["GRPCRoute/r1-vlmoe"]["spec"]["rules"]
    for match in rules[0]["matches"]:
        service = match["method"]["service"]
        assert service in text or _standard(service), service


def _standard(service):
    """Services whose names come with grpcio's own packages."""
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2

    known = (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    return service in {each.full_name for file in known for each in file.services_by_name.values()}
