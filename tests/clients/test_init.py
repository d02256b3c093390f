import vlmoe_client
from vlmoe_client import _errors, _results


def test_all_is_sorted_and_complete():
    public = {
        name
        for name, value in vars(vlmoe_client).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("vlmoe_client")
    }
    assert vlmoe_client.__all__ == sorted(vlmoe_client.__all__)
    assert set(vlmoe_client.__all__) == public | {"GrpcClient", "ImageSource", "__version__"}


def test_every_error_and_result_is_public():
    for module in (_errors, _results):
        defined = {
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        assert defined <= set(vlmoe_client.__all__)
