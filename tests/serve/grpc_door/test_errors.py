import pytest
from google.rpc import error_details_pb2, status_pb2

from vlmoe_serve.errors import InvalidField, Overloaded, ServeError
from vlmoe_serve.grpc_door.errors import failure


def details(end):
    ((key, content),) = end.metadata
    assert key == "grpc-status-details-bin"
    return status_pb2.Status.FromString(content)


def test_every_error_of_the_tree_has_a_canonical_code():
    def all_below(kind):
        return [kind, *(each for below in kind.__subclasses__() for each in all_below(below))]

    for kind in all_below(ServeError):
        end = failure(kind("no"))
        status = details(end)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (status.code, info.reason) == (end.code.value[0], kind.code)
        assert info.metadata["status"] == str(kind.status)


def test_the_field_and_the_wait_travel():
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details(failure(InvalidField("no", param="a.b"))).details[0].Unpack(info)
    assert info.metadata["param"] == "a.b"
    status = details(failure(Overloaded("no", retry_after_s=1.25)))
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == pytest.approx(1.25)


def test_a_long_message_is_cut_to_what_metadata_holds():
    end = failure(ServeError("\u00e9" * 5000))
    assert end.message == "\u00e9" * 1000
    assert sum(len(value) for _, value in end.metadata) < 4000
