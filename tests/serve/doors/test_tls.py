import os
import signal
import socket
import ssl

import httpx
import pytest
import trustme

from ..waiting import PATIENCE_S, wait_until


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def write(folder, issued):
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())


def options(folder):
    return ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]


def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serial_of(server, context):
    port = int(server.url.rsplit(":", 1)[1])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return connection.getpeercert()["serialNumber"]


def test_requests_are_answered_and_a_renewed_certificate_is_taken_up(start, authority, tmp_path):
    write(tmp_path, authority.issue_cert("127.0.0.1"))
    server = start(*options(tmp_path))
    assert server.url.startswith("https://")
    context = trusting(authority)
    with httpx.Client(base_url=server.url, verify=context, timeout=PATIENCE_S) as client:
        assert client.post("/embed", json={"text": "a cat"}).status_code == 200
        before = serial_of(server, context)
        # half of a renewal: the old certificate stays
        renewed = authority.issue_cert("127.0.0.1")
        (tmp_path / "key.pem").write_bytes(renewed.private_key_pem.bytes())
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: "kept what was read before" in server.log)
        assert serial_of(server, context) == before
        write(tmp_path, renewed)
        os.kill(server.process.pid, signal.SIGHUP)
        wait_until(lambda: serial_of(server, context) != before)
        assert client.get("/healthz").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{server.url}/healthz", timeout=PATIENCE_S)
    with pytest.raises(httpx.HTTPError):
        httpx.get(server.url.replace("https", "http"), timeout=PATIENCE_S)
    assert server.end() == 0


def test_callers_without_a_certificate_are_not_heard(start, authority, tmp_path):
    write(tmp_path, authority.issue_cert("127.0.0.1"))
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    server = start(*options(tmp_path), "--tls-client-ca", str(tmp_path / "ca.pem"))
    ours, stranger = trusting(authority), trusting(authority)
    authority.issue_cert("caller").configure_cert(ours)
    trustme.CA().issue_cert("caller").configure_cert(stranger)
    with httpx.Client(verify=ours, timeout=PATIENCE_S) as client:
        assert client.get(f"{server.url}/v1/models").status_code == 200
    for context in (trusting(authority), stranger):
        with pytest.raises(httpx.TransportError), httpx.Client(verify=context, timeout=PATIENCE_S) as client:
            client.get(f"{server.url}/healthz")
    assert server.end() == 0
