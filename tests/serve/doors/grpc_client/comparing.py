"""What two clients say to the same call, as values that can be compared."""

import dataclasses

import pytest


def same(both, method, *arguments, **more):
    """What both answer to the same call."""
    over_http, over_grpc = (getattr(client, method)(*arguments, **more) for client in both)
    if isinstance(over_http, list):
        over_http, over_grpc = map(plain, over_http), map(plain, over_grpc)
        over_http, over_grpc = list(over_http), list(over_grpc)
    assert over_grpc == over_http
    return over_grpc


def plain(result):
    return dataclasses.replace(result) if dataclasses.is_dataclass(result) else result


def failure(call, *arguments, **more):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (which one it is, is what is compared)
        call(*arguments, **more)
    error = caught.value
    names = ("status", "code", "message", "param")
    return type(error), *(getattr(error, name, None) for name in names)


def server_url(server):
    return f"grpc://{server.grpc}"
