"""Collectors of both protocols, and an environment that chooses theirs."""

import pytest

from ..collectors import GrpcCollector, HttpCollector

COLLECTORS = {"grpc": GrpcCollector, "http/protobuf": HttpCollector}


@pytest.fixture(params=COLLECTORS)
def collector(request, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    receiver = COLLECTORS[request.param]()
    yield receiver
    receiver.stop()
