"""Health, reflection, sizes and ports of the gRPC door."""

import socket

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2 as pb
from vlmoe_serve.main import run

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


def test_health_knows_the_server_and_its_services(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "vlmoe.v1.VLMoE"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = health.Watch(health_pb2.HealthCheckRequest(service="other"))
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watched.cancel()


def test_reflection_describes_every_method(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"vlmoe.v1.VLMoE", "grpc.health.v1.Health"} <= set(database.get_services())
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
