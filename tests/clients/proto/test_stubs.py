import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).parents[3] / "clients"
PROTOS = CLIENTS / "vlmoe_client" / "proto"


def stubs(folder):
    return {
        path.relative_to(folder): path.read_text()
        for path in folder.rglob("*_pb2*.py*")
        if path.suffix != ".pyc"
    }


def test_the_committed_stubs_are_those_of_the_proto_files(tmp_path):
    subprocess.run([sys.executable, CLIENTS / "make_stubs.py", tmp_path], check=True)
    made = stubs(tmp_path)
    assert len(made) == 8
    assert made == stubs(CLIENTS), "run make proto"


def test_every_method_says_what_its_stream_is():
    from vlmoe_client.proto.vlmoe.v1 import vlmoe_pb2

    methods = {method.name: method for method in vlmoe_pb2.DESCRIPTOR.services_by_name["VLMoE"].methods}
    streams = {name for name, method in methods.items() if method.client_streaming}
    assert streams == {"VqaStream", "ClassifyStream", "EmbedStream", "RetrieveStream", "UpsertStream"}
    assert all(method.client_streaming == method.server_streaming for method in methods.values())
