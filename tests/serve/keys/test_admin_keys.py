import pytest

from vlmoe_serve.errors import Forbidden, Unauthorized
from vlmoe_serve.keys.admin_keys import AdminKeys
from vlmoe_serve.keys.api_keys import ApiKeys


@pytest.fixture
def keys(tmp_path):
    def make(*given):
        file = tmp_path / "-".join(given)
        file.write_text("\n".join(given))
        return ApiKeys.load(file)

    return make


def refused(keys, shown):
    with pytest.raises((Forbidden, Unauthorized)) as refusal:
        keys.check(shown)
    return refusal.value.status


def test_admins_may_and_callers_may_not(keys):
    both = AdminKeys(keys("admin"), keys("caller"))
    both.check(b"admin")
    assert [refused(both, shown) for shown in (b"caller", b"foreign", b"", None)] == [403, 401, 401, 401]
    # where everybody may call, a foreign key is no caller's
    alone = AdminKeys(keys("admin"), ApiKeys())
    alone.check(b"admin")
    assert [refused(alone, shown) for shown in (b"foreign", None)] == [401, 401]


def test_without_admins_nobody_may(keys):
    for callers in (ApiKeys(), keys("caller")):
        assert [refused(AdminKeys(ApiKeys(), callers), shown) for shown in (b"caller", None)] == [403, 403]
