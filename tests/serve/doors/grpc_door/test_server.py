"""Health, reflection, sizes and ports of the gRPC door."""

import signal
import socket
import threading

import grpc
import pytest
import trustme
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2_grpc
from vlmoe_serve.main import run

from ...waiting import PATIENCE_S, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def test_health_knows_the_server_and_its_services(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "vlmoe.v1.VLMoE", "inference.GRPCInferenceService"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = health.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()


def test_who_has_no_key_cannot_fill_the_door_by_asking_for_its_health(start, tmp_path):
    (tmp_path / "keys").write_text("one-of-ours\n")
    server = start("--api-key-file", str(tmp_path / "keys"))
    never = threading.Event()

    def nothing():
        never.wait()
        yield from ()

    with grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watching = [watch(health_pb2.HealthCheckRequest()) for _ in range(256)]
        assert all(next(each).status == SERVING for each in watching)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(health_pb2.HealthCheckRequest()))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        # there is room again, also for probes
        watching.pop().cancel()
        wait_until(lambda: _watches(watch))
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary("/grpc.health.v1.Health/Check")(nothing())
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        never.set()
    assert server.end() == 0


def _watches(watch):
    call = watch(health_pb2.HealthCheckRequest())
    try:
        return next(call).status == SERVING
    except grpc.RpcError:
        return False
    finally:
        call.cancel()


def test_reflection_describes_every_method(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"vlmoe.v1.VLMoE", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(
        database.get_services()
    )
    service = DescriptorPool(database).FindServiceByName("vlmoe.v1.VLMoE")
    ours = pb.DESCRIPTOR.services_by_name["VLMoE"]
    assert {method.name for method in service.methods} == {method.name for method in ours.methods}
    assert service.FindMethodByName("Vqa").input_type.fields_by_name["question"].number == 2


def test_a_message_over_the_limit_is_refused_and_the_connection_stays(start, png):
    server = start("--max-body-mb", "0.1")
    with grpc.insecure_channel(server.grpc) as channel:
        ask = channel.unary_unary("/vlmoe.v1.VLMoE/Embed", pb.EmbedRequest.SerializeToString)
        with pytest.raises(grpc.RpcError) as caught:
            ask(pb.EmbedRequest(image=bytes(200_000)))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.details()
        assert ask(pb.EmbedRequest(image=png()))
    assert server.end() == 0


def test_connections_over_the_limit_are_refused_until_others_end(start):
    server = start("--max-connections", "5")
    health = health_pb2.HealthCheckRequest()

    def connected():
        # else all would share one connection
        return grpc.insecure_channel(server.grpc, options=[("grpc.use_local_subchannel_pool", 1)])

    def answers(channel):
        try:
            return health_pb2_grpc.HealthStub(channel).Check(health, timeout=PATIENCE_S).status == SERVING
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    held = [connected() for _ in range(5)]
    assert all(map(answers, held))
    with connected() as channel:
        assert not answers(channel)
    assert all(map(answers, held))
    for channel in held:
        channel.close()

    def comes_in():
        with connected() as channel:
            return answers(channel)

    wait_until(comes_in)
    assert server.end() == 0


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def write(folder, issued):
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())


def embed(server, **credentials):
    how = grpc.ssl_channel_credentials(**credentials)
    with grpc.secure_channel(server.grpc, how) as channel:
        return len(
            vlmoe_pb2_grpc.VLMoEStub(channel).Embed(pb.EmbedRequest(text="a"), timeout=PATIENCE_S).embedding
        )


def test_tls_of_both_sides_and_a_renewed_certificate(start, authority, tmp_path):
    write(tmp_path, authority.issue_cert("127.0.0.1"))
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    files = {"cert": "cert.pem", "key": "key.pem", "client-ca": "ca.pem"}
    server = start(
        *(word for name, file in files.items() for word in (f"--tls-{name}", str(tmp_path / file)))
    )
    known, stranger = authority.issue_cert("caller"), trustme.CA().issue_cert("caller")

    def certified(issued):
        return {
            "root_certificates": authority.cert_pem.bytes(),
            "private_key": issued.private_key_pem.bytes(),
            "certificate_chain": issued.cert_chain_pems[0].bytes(),
        }

    assert embed(server, **certified(known)) == 8
    for credentials in ({"root_certificates": authority.cert_pem.bytes()}, certified(stranger)):
        with pytest.raises(grpc.RpcError) as caught:
            embed(server, **credentials)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    # of another authority: callers see that the new one is shown by refusing it
    write(tmp_path, trustme.CA().issue_cert("127.0.0.1"))
    server.process.send_signal(signal.SIGHUP)

    def refused_by_the_caller():
        try:
            embed(server, **certified(known))
        except grpc.RpcError:
            return True
        return False

    wait_until(refused_by_the_caller, "the old certificate is still shown")
    assert server.end() == 0


def test_a_taken_port_is_one_line_and_0_is_no_door(start, checkpoint, tmp_path, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["--model", str(checkpoint), "--port", "0", "--data-dir", str(tmp_path)]
        assert run([*arguments, "--grpc-port", port]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("vlmoe serve: ")] == lines
    assert f"127.0.0.1:{port}" in lines[0]
    server = start("--grpc-port", "0")
    assert server.grpc == ""
    assert server.end() == 0
