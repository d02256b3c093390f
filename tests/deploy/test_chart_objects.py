"""What the rendered objects say, value by value."""

import pytest

pytestmark = pytest.mark.deploy

ALWAYS = {
    "ServiceAccount/r1-vlmoe",
    "Service/r1-vlmoe",
    "Deployment/r1-vlmoe",
    "Pod/r1-vlmoe-ask",
}


def test_the_defaults_are_a_deployment_a_service_and_a_question(render):
    assert set(render()) == ALWAYS


@pytest.mark.parametrize(
    ("sets", "more"),
    [
        (("replicaCount=2",), {"PodDisruptionBudget/r1-vlmoe"}),
        (("replicaCount=2", "podDisruptionBudget.enabled=false"), set()),
        (("networkPolicy.enabled=true",), {"NetworkPolicy/r1-vlmoe"}),
        (('ingress={"enabled": true, "hosts": [{"host": "a.b"}]}',), {"Ingress/r1-vlmoe"}),
        (
            ('gateway={"enabled": true, "parentRefs": [{"name": "g"}]}',),
            {"HTTPRoute/r1-vlmoe", "GRPCRoute/r1-vlmoe"},
        ),
        (('autoscaling.kind="hpa"',), {"HorizontalPodAutoscaler/r1-vlmoe"}),
        (
            ('autoscaling.kind="hpa"', "autoscaling.minReplicas=2"),
            {"HorizontalPodAutoscaler/r1-vlmoe", "PodDisruptionBudget/r1-vlmoe"},
        ),
        (("metrics.serviceMonitor.enabled=true",), {"ServiceMonitor/r1-vlmoe"}),
        (("metrics.prometheusRule.enabled=true",), {"PrometheusRule/r1-vlmoe"}),
        (("metrics.dashboard.enabled=true",), {"ConfigMap/r1-vlmoe-dashboard"}),
        (
            ('models=[{"name": "a", "archive": {"url": "http://a/b", "sha256": "' + 64 * "0" + '"}}]',),
            {"ConfigMap/r1-vlmoe-scripts"},
        ),
    ],
)
def test_each_switch_adds_its_own_objects(render, sets, more):
    assert set(render("", *sets)) == ALWAYS | more


def test_collections_make_it_a_stateful_set_with_a_claim(render, pod_spec, container):
    objects = render("collections.yaml")
    assert "Deployment/r1-vlmoe" not in objects
    spec = objects["StatefulSet/r1-vlmoe"]["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "50Gi"}},
    }
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert objects[f"Service/{spec['serviceName']}"]["spec"]["clusterIP"] == "None"
    mounts = {each["mountPath"]: each["name"] for each in container(objects)["volumeMounts"]}
    assert mounts["/data"] == claim["metadata"]["name"]
    assert "data" not in {each["name"] for each in pod_spec(objects)["volumes"]}


def test_a_claim_of_ones_own_is_mounted(render, pod_spec):
    objects = render("existing-claim.yaml")
    assert "volumeClaimTemplates" not in objects["StatefulSet/r1-vlmoe"]["spec"]
    volumes = {each["name"]: each for each in pod_spec(objects)["volumes"]}
    assert volumes["data"] == {"name": "data", "persistentVolumeClaim": {"claimName": "collections"}}


@pytest.mark.parametrize(("drain", "stop", "grace"), [(25, 5, 40), (60, 10, 80), (0.5, 0, 11)])
def test_the_pod_is_killed_only_after_the_drain(render, pod_spec, container, drain, stop, grace):
    objects = render("", f"drainSeconds={drain}", f"preStopSeconds={stop}")
    spec = pod_spec(objects)
    assert spec["terminationGracePeriodSeconds"] == grace
    arguments = container(objects)["args"]
    assert arguments[arguments.index("--drain-s") + 1] == str(drain)
    hook = container(objects).get("lifecycle")
    assert hook == (None if stop == 0 else {"preStop": {"exec": {"command": ["sleep", str(stop)]}}})


def test_nothing_may_be_written_but_the_volumes(render, pod_spec, container):
    for case in ("", "volumes.yaml", "collections.yaml"):
        objects = render(case)
        spec = pod_spec(objects)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        asking = objects["Pod/r1-vlmoe-ask"]["spec"]
        everyone = [*spec["containers"], *spec.get("initContainers", []), *asking["containers"]]
        for each in everyone:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
        writable = {
            each["mountPath"] for each in container(objects)["volumeMounts"] if not each.get("readOnly")
        }
        assert writable == {"/data", "/tmp"}


def test_every_mount_has_its_volume(render, pod_spec):
    for case in ("", "volumes.yaml", "collections.yaml", "existing-claim.yaml", "extras.yaml"):
        objects = render(case)
        spec = pod_spec(objects)
        names = [each["name"] for each in spec["volumes"]]
        assert len(set(names)) == len(names)
        claims = objects.get("StatefulSet/r1-vlmoe", {}).get("spec", {}).get("volumeClaimTemplates", [])
        known = {*names, *(each["metadata"]["name"] for each in claims)}
        for each in (*spec["containers"], *spec.get("initContainers", [])):
            assert {mount["name"] for mount in each.get("volumeMounts", [])} <= known


def test_models_come_from_their_volumes(render, pod_spec, container):
    objects = render("volumes.yaml")
    arguments = container(objects)["args"]
    given = [arguments[i + 1] for i, each in enumerate(arguments) if each == "--model"]
    assert given == ["large=/models/large", "small=/models/small", "fetched=/fetched/fetched"]
    mounts = {each["mountPath"]: each for each in container(objects)["volumeMounts"]}
    assert mounts["/models/large"]["subPath"] == "runs/large"
    assert mounts["/models/small"]["readOnly"] is True
    (fetch,) = pod_spec(objects)["initContainers"]
    assert fetch["args"][1:] == [
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "/fetched/fetched",
    ]
    assert fetch["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "model-store", "key": "header"}


def test_keys_are_a_file_of_a_secret(render, pod_spec, container):
    objects = render("collections.yaml")
    arguments = container(objects)["args"]
    assert arguments[arguments.index("--api-key-file") + 1] == "/keys/keys"
    volumes = {each["name"]: each for each in pod_spec(objects)["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "vlmoe-keys"
    (endpoint,) = objects["ServiceMonitor/r1-vlmoe"]["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "vlmoe-client", "key": "key"}}
    (asking,) = objects["Pod/r1-vlmoe-ask"]["spec"]["containers"]
    assert asking["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "vlmoe-client", "key": "key"}


def test_with_a_certificate_everybody_speaks_https(render, container):
    objects = render("tls.yaml")
    first = container(objects)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert first[probe]["httpGet"]["scheme"] == "HTTPS"
    (endpoint,) = objects["ServiceMonitor/r1-vlmoe"]["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]["serverName"]) == ("https", "r1-vlmoe.serving.svc")
    asking = objects["Pod/r1-vlmoe-ask"]["spec"]
    assert asking["containers"][0]["args"][1:] == ["https://r1-vlmoe.serving.svc:80", "/tls/ca.crt"]
    assert asking["volumes"][0]["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]
    assert objects["Service/r1-vlmoe"]["spec"]["ports"][0]["appProtocol"] == "https"


def test_no_replicas_are_set_where_a_scaler_sets_them(render):
    assert "replicas" in render()["Deployment/r1-vlmoe"]["spec"]
    for case in ("hpa.yaml", "keda.yaml"):
        assert "replicas" not in render(case)["Deployment/r1-vlmoe"]["spec"]


def test_scalers_hold_the_wait_for_a_batch(render):
    queue, cpu = render("hpa.yaml")["HorizontalPodAutoscaler/r1-vlmoe"]["spec"]["metrics"]
    assert queue["pods"]["target"] == {"type": "AverageValue", "averageValue": "200m"}
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 80}
    (trigger,) = render("keda.yaml")["ScaledObject/r1-vlmoe"]["spec"]["triggers"]
    assert trigger["metricType"] == "Value"
    assert trigger["metadata"]["threshold"] == "0.15"
    assert '{job="r1-vlmoe",namespace="serving"}' in trigger["metadata"]["query"]


def test_selectors_find_the_server_and_not_the_question(render):
    objects = render("monitoring.yaml", "replicaCount=2", "networkPolicy.enabled=true")
    labels = objects["Deployment/r1-vlmoe"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        objects["Deployment/r1-vlmoe"]["spec"]["selector"]["matchLabels"],
        objects["Service/r1-vlmoe"]["spec"]["selector"],
        objects["PodDisruptionBudget/r1-vlmoe"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy/r1-vlmoe"]["spec"]["podSelector"]["matchLabels"],
    ]
    asking = objects["Pod/r1-vlmoe-ask"]["metadata"]["labels"]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= asking.items()
    monitored = objects["ServiceMonitor/r1-vlmoe"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= objects["Service/r1-vlmoe"]["metadata"]["labels"].items()


def test_a_new_version_of_the_chart_alone_restarts_no_pod(render):
    labels = render()["Deployment/r1-vlmoe"]["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)


def test_by_default_the_network_policy_lets_nothing_out(render):
    spec = render("routes.yaml")["NetworkPolicy/r1-vlmoe"]["spec"]
    assert (spec["policyTypes"], spec["egress"]) == (["Ingress", "Egress"], [])
    fetching = render("volumes.yaml", "networkPolicy.enabled=true")["NetworkPolicy/r1-vlmoe"]["spec"]
    assert [port["port"] for port in fetching["egress"][0]["ports"]] == [53, 53]


def test_alerts_look_at_this_release_and_carry_its_labels(render):
    groups = render("monitoring.yaml")["PrometheusRule/r1-vlmoe"]["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert "VlmoeAbsent" not in alerts
    assert all(alert["labels"]["team"] == "vision" for alert in alerts.values())
    for rule in rules:
        assert 'job="vlmoe"' not in rule["expr"]
        assert 'job="r1-vlmoe",namespace="serving"' in rule["expr"]


def test_images_are_named_by_tag_or_digest(render, container):
    assert container(render())["image"] == "vlmoe:0.1.0"
    assert container(render("values-gpu.yaml"))["image"] == "vlmoe:0.1.0-cuda"
    assert container(render("volumes.yaml"))["image"].startswith("vlmoe@sha256:")


def test_the_gpu_values_ask_for_a_gpu(render, container):
    gpu = container(render("values-gpu.yaml"))
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["args"][gpu["args"].index("--device") + 1] == "cuda"


def test_templates_are_filled_in_where_the_readme_says_so(render, container, pod_spec):
    objects = render("extras.yaml")
    assert "ConfigMap/r1-more" in objects
    assert {"name": "RELEASE", "value": "r1"} in container(objects)["env"]
    assert container(objects)["args"][-2:] == ["--max-queue-ms", "900"]
    assert pod_spec(objects)["serviceAccountName"] == "shared"
    assert not any(name.startswith(("ServiceAccount/", "Pod/")) for name in objects)


def test_a_group_is_a_leader_worker_set_whose_first_pods_have_the_doors(render, pod_spec, container):
    objects = render("group.yaml", 'autoscaling.kind="hpa"')
    assert "Deployment/r1-vlmoe" not in objects
    spec = objects["LeaderWorkerSet/r1-vlmoe-group"]["spec"]
    assert spec["leaderWorkerTemplate"]["size"] == 3
    # the pods wait for each other, and come back one by one
    assert spec["startupPolicy"] == "LeaderCreated"
    assert spec["leaderWorkerTemplate"]["restartPolicy"] == "None"
    assert objects["HorizontalPodAutoscaler/r1-vlmoe"]["spec"]["scaleTargetRef"] == {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "name": "r1-vlmoe-group",
    }
    # the set makes a headless Service of its own name
    assert "Service/r1-vlmoe-group" not in objects
    assert objects["Service/r1-vlmoe"]["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    arguments = container(objects)["args"]
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert (given["--nodes"], given["--ranks"]) == ("3", "6")
    assert given["--node-rank"] == "$(NODE_RANK)"
    assert given["--rendezvous"] == "$(LWS_LEADER_ADDRESS):29500"
    assert given["--rendezvous-key-file"] == "/group/key"
    (variable,) = container(objects)["env"]
    assert variable["name"] == "NODE_RANK"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == (
        "metadata.labels['leaderworkerset.sigs.k8s.io/worker-index']"
    )
    volumes = {each["name"]: each for each in pod_spec(objects)["volumes"]}
    assert volumes["group-key"]["secret"]["secretName"] == "vlmoe-group"


def test_pods_of_a_group_reach_each_other_through_the_policy(render):
    rules = render("group.yaml")["NetworkPolicy/r1-vlmoe"]["spec"]
    pods = {"matchLabels": {"app.kubernetes.io/name": "vlmoe", "app.kubernetes.io/instance": "r1"}}
    assert {"from": [{"podSelector": pods}]} in rules["ingress"]
    assert {"to": [{"podSelector": pods}]} in rules["egress"]
    # nobody else reaches more than the doors
    assert [port["port"] for port in rules["ingress"][0]["ports"]] == ["http", "grpc"]
    assert any(port.get("port") == 53 for rule in rules["egress"] for port in rule.get("ports", []))


@pytest.mark.parametrize("name", ["v", "v" * 63])
def test_names_of_a_group_leave_room_for_those_of_its_pods(render, name):
    """A worker's StatefulSet is NAME-GROUP, and its pods carry NAME-GROUP-HASH in a label of 63 characters."""
    objects = render("group.yaml", f'fullnameOverride="{name}"')
    (group,) = [each for each in objects.values() if each["kind"] == "LeaderWorkerSet"]
    assert len(group["metadata"]["name"]) + len("-999-5f6d8c7b9f") <= 63
