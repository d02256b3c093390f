import pytest

from vlmoe_client import Client


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "//h", "http://h:port"])
def test_a_url_that_cannot_be_is_refused_with_its_value(url):
    with pytest.raises(ValueError, match="server's URL") as caught:
        Client(url)
    assert url in str(caught.value)


def test_the_default_is_this_machine(monkeypatch):
    monkeypatch.delenv("VLMOE_URL", raising=False)
    with Client() as client:
        assert client.url == "http://127.0.0.1:8000"


def test_a_given_url_beats_the_environment(monkeypatch):
    monkeypatch.setenv("VLMOE_URL", "http://env:1")
    with Client("https://given:2/?x=1") as client:
        assert client.url == "https://given:2"


def test_a_key_with_a_line_break_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        Client("http://h", api_key="s3cret\n")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout": -1}, {"connect_timeout": 0}, {"priority": "vip"}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        Client("http://h", **options)
