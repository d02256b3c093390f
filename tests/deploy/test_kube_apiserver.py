"""The chart against a real API server: install, upgrade, roll back, uninstall.

Opt-in, because no package has the server: KUBE_APISERVER is the path of a kube-apiserver, ETCD that of etcd (or etcd is
on the PATH). There are no controllers and no nodes, so objects are taken and kept, and no pod ever runs. An older
server is asked for what it has: the chart's copy lacks `kubeVersion`, and budgets and scalers are switched off where
the server does not know their version.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "vlmoe"
APISERVER = os.environ.get("KUBE_APISERVER", "")
ETCD = os.environ.get("ETCD") or shutil.which("etcd") or ""

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not APISERVER, reason="KUBE_APISERVER names no kube-apiserver"),
    pytest.mark.skipif(not ETCD, reason="there is no etcd: install it or name it in ETCD"),
]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tool, tmp_path_factory):
    """A function that runs helm or kubectl against a new server."""
    folder = tmp_path_factory.mktemp("cluster")
    client, peer, secure = free_port(), free_port(), free_port()
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    subprocess.run(
        ["openssl", "rsa", "-in", key, "-pubout", "-out", folder / "sa.pub"], check=True, capture_output=True
    )
    (folder / "tokens.csv").write_text("token,admin,1,system:masters\n")
    programs = {
        "etcd": [
            *(ETCD, "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
            *("--listen-client-urls", f"http://127.0.0.1:{client}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
            *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
        ],
        "apiserver": [
            *(APISERVER, "--etcd-servers", f"http://127.0.0.1:{client}"),
            *("--bind-address", "127.0.0.1", "--secure-port", str(secure), "--cert-dir", str(folder)),
            *("--service-account-issuer", "https://k.local", "--service-account-signing-key-file", str(key)),
            *(
                "--service-account-key-file",
                str(folder / "sa.pub"),
                "--token-auth-file",
                str(folder / "tokens.csv"),
            ),
            *("--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16"),
            *("--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount"),
        ],
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": f"https://127.0.0.1:{secure}", "insecure-skip-tls-verify": True},
            }
        ],
        "users": [{"name": "u", "user": {"token": "token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
        "current-context": "x",
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "KUBECONFIG": str(folder / "config"),
        "HOME": str(folder),
    }

    def run(program, *arguments):
        return subprocess.run(
            [tool(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )

    with contextlib.ExitStack() as stack:
        for name, command in programs.items():
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            stack.callback(lambda process=process: (process.kill(), process.wait()))
        give_up_s = time.monotonic() + 120
        while run("kubectl", "get", "namespace", "default").returncode:
            assert process.poll() is None, (folder / "apiserver.log").read_text()[-3000:]
            assert time.monotonic() < give_up_s, (folder / "apiserver.log").read_text()[-3000:]
            time.sleep(0.5)
        yield run


@pytest.fixture
def chart(tmp_path):
    """A copy that an older server may have."""
    copy = tmp_path / "vlmoe"
    shutil.copytree(CHART, copy)
    about = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(re.sub(r"kubeVersion:.*\n", "", about))
    return copy


def done(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def what_it_lacks(cluster):
    versions = done(cluster("kubectl", "api-versions")).split()
    return [] if "policy/v1" in versions else ["--set", "podDisruptionBudget.enabled=false"]


def test_a_release_lives_from_install_to_uninstall(cluster, chart):
    lacks = what_it_lacks(cluster)
    done(cluster("helm", "install", "r1", chart, *lacks))
    deployment = yaml.safe_load(done(cluster("kubectl", "get", "deployment", "r1-vlmoe", "-o", "yaml")))
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 40
    done(cluster("helm", "upgrade", "r1", chart, *lacks, "--set", "replicaCount=3,drainSeconds=50"))
    deployment = yaml.safe_load(done(cluster("kubectl", "get", "deployment", "r1-vlmoe", "-o", "yaml")))
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 65
    done(cluster("helm", "rollback", "r1", "1"))
    deployment = yaml.safe_load(done(cluster("kubectl", "get", "deployment", "r1-vlmoe", "-o", "yaml")))
    assert deployment["spec"]["replicas"] == 1
    assert len(yaml.safe_load(done(cluster("helm", "history", "r1", "-o", "yaml")))) == 3
    done(cluster("helm", "uninstall", "r1"))
    left = done(cluster("kubectl", "get", "all,configmap,ingress", "-l", "app.kubernetes.io/instance=r1"))
    assert left == ""


@pytest.mark.parametrize(
    "case", ["volumes.yaml", "collections.yaml", "extras.yaml", "routes.yaml", "tls.yaml", "loading.yaml"]
)
def test_the_server_takes_every_shape_of_it(cluster, chart, case):
    """What needs controllers' own resources is switched off: nobody has installed their definitions here."""
    off = [
        "gateway.enabled=false",
        "metrics.serviceMonitor.enabled=false",
        "podDisruptionBudget.enabled=false",
    ]
    sets = [item for each in off for item in ("--set", each)]
    name = case.removesuffix(".yaml")
    if what_it_lacks(cluster):
        # it drops the fields that it does not know yet; test_chart checks them against newer schemas
        sets += ["--disable-openapi-validation", "--server-side=false"]
    done(cluster("helm", "install", name, chart, "--values", CHART / "ci" / case, *sets))
    done(cluster("helm", "uninstall", name))
