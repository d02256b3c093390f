"""Values that are misspelt, impossible, or do not go together are refused before anything is installed."""

import json
import re
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe"

pytestmark = pytest.mark.deploy

REFUSED = {
    "a misspelt key": ("replicasCount=2", "replicasCount"),
    "a misspelt option": ("options.maxBodyMB=8", "maxBodyMB"),
    "a key misspelt further down": ("metrics.serviceMonitor.intervals=1", "intervals"),
    "an option out of range": ("options.threads=0", "threads"),
    "a device there is none of": ('options.device="tpu"', "device"),
    "text for a number": ('replicaCount="two"', "replicaCount"),
    "no model": ("models=[]", "models"),
    "a model without a source": ('models=[{"name": "a"}]', "models"),
    "a model with two sources": ('models=[{"name": "a", "demo": true, "path": "/a"}]', "models"),
    "a name the server refuses": ('models=[{"name": "-a", "demo": true}]', "models"),
    "two models of one name": (
        'models=[{"name": "a", "demo": true}, {"name": "a", "path": "/a"}]',
        'two models are named "a"',
    ),
    "a checksum that is none": (
        'models=[{"name": "a", "archive": {"url": "https://a/b", "sha256": "abc"}}]',
        "models",
    ),
    "an archive without a checksum": ('models=[{"name": "a", "archive": {"url": "https://a/b"}}]', "models"),
    "a digest that is none": ('image.digest="latest"', "digest"),
    "a grace period that cuts the drain": ("terminationGracePeriodSeconds=30", "killed while it drains"),
    "collections in several pods": (
        "collections.enabled=true;replicaCount=2",
        "each pod would have collections of its own",
    ),
    "collections that are scaled": (
        'collections.enabled=true;autoscaling.kind="hpa"',
        "each pod would have collections of its own",
    ),
    "a scaler there is none of": ('autoscaling.kind="vpa"', "autoscaling"),
    "fewest above most": ('autoscaling.kind="hpa";autoscaling.minReplicas=9', "larger than"),
    "KEDA without Prometheus": ('autoscaling.kind="keda"', "serverAddress"),
    "a route without a gateway": ("gateway.enabled=true", "parentRefs"),
    "an ingress without hosts": ("ingress.enabled=true", "ingress.hosts"),
    "both halves of a budget": ("podDisruptionBudget.minAvailable=1", "minAvailable or maxUnavailable"),
    "a monitor without a key": (
        'apiKeys.existingSecret="s";metrics.serviceMonitor.enabled=true',
        "asks for a key",
    ),
    "a key without keys": ('apiKeys.client={"name": "a", "key": "b"}', "existingSecret"),
    "half a key": ('apiKeys.existingSecret="s";apiKeys.client={"name": "a"}', "client"),
    "loading without a key": ('modelLoading.claim={"name": "a"}', "who may"),
    "a gRPC Ingress without gRPC": ("ingress.grpc=true;grpc.enabled=false", "grpc.enabled"),
    "a group with collections": ("expertParallel.nodes=2;collections.enabled=true", "have no volumes"),
    "ranks of a group": ("expertParallel.nodes=2;options.ranks=2", "leave it out"),
    "a group with two models": (
        'expertParallel.nodes=2;models=[{"name": "a", "demo": true}, {"name": "b", "demo": true}]',
        "a group serves one model",
    ),
    "a group that loads models": (
        'expertParallel.nodes=2;modelLoading={"claim": {"name": "a"}, "adminSecret": "b"}',
        "loads no other",
    ),
    "a group that is replaced at once": (
        'expertParallel.nodes=2;strategy={"type": "Recreate", "rollingUpdate": null}',
        "RollingUpdate alone",
    ),
    "no node": ("expertParallel.nodes=0", "nodes"),
    "a port there is none of": ("service.port=70000", "port"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(helm, what):
    sets, reason = REFUSED[what]
    arguments = [item for each in sets.split(";") for item in ("--set-json", each)]
    done = helm("template", "r1", CHART, *arguments)
    assert done.returncode == 1
    assert reason in done.stderr


def test_the_defaults_are_the_schemas():
    """Every value has a place in the schema, and every place in the schema has a value that README shows."""

    def compare(values, schema, where):
        known = schema.get("properties")
        if known is None or not isinstance(values, dict):
            return
        assert set(values) <= set(known), where
        if schema.get("additionalProperties") is False and where not in ("options", *_PROBES):
            assert set(known) - set(values) <= {"global"} | _NOT_SHOWN.get(where, set()), where
        for key, value in values.items():
            compare(value, known[key], f"{where}.{key}".lstrip("."))

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare(values, json.loads((CHART / "values.schema.json").read_text()), "")


_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
_NOT_SHOWN = {"resources": {"claims"}}


def test_a_number_is_written_as_the_server_reads_it(render):
    text = json.dumps(render("volumes.yaml"))
    assert '"64000000"' in text
    assert not re.search(r"\d[eE]\+\d", text)
