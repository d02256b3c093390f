import ssl

import pytest
import trustme

from vlmoe_serve.option_sources import UsageError
from vlmoe_serve.tls import Tls


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(tmp_path, authority):
    """(certificate, key, authority), as files."""
    cert, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    issued = authority.issue_cert("localhost", "127.0.0.1")
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    ca.write_bytes(authority.cert_pem.bytes())
    return cert, key, ca


def test_without_a_certificate_there_is_none():
    assert Tls.given(None, None, None) is None


@pytest.mark.parametrize(
    "given", [(0, None, None), (None, 1, None), (None, None, 2), (None, 1, 2), (0, None, 2)]
)
def test_half_of_it_is_refused(files, given):
    with pytest.raises(UsageError, match="--tls-cert and --tls-key"):
        Tls.given(*(None if index is None else files[index] for index in given))


def test_old_protocols_are_off_and_callers_are_asked_only_with_an_authority(files):
    cert, key, ca = files
    plain = Tls.given(cert, key, None)
    assert plain.context().minimum_version is ssl.TLSVersion.TLSv1_2
    assert plain.context().verify_mode is ssl.CERT_NONE
    assert plain.pem().client_ca is None
    mutual = Tls.given(cert, key, ca)
    assert mutual.context().verify_mode is ssl.CERT_REQUIRED
    assert mutual.pem().cert == cert.read_bytes()
    assert mutual.pem().key == key.read_bytes()
    assert mutual.pem().client_ca == ca.read_bytes()


@pytest.mark.parametrize("broken", [0, 1, 2])
@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_none_is_named(files, broken, content):
    files[broken].unlink()
    if content is not None:
        files[broken].write_bytes(content)
    with pytest.raises(UsageError, match=files[broken].name) as caught:
        Tls.given(*files)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_refused_and_the_old_one_stays(files, authority):
    cert, key, _ = files
    tls = Tls.given(cert, key, None)
    context = tls.context()
    key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(UsageError, match=r"cert\.pem"):
        tls.renew(context)


def test_an_encrypted_key_does_not_ask_on_the_terminal(files):
    from cryptography.hazmat.primitives import serialization

    cert, key, _ = files
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(UsageError, match=r"key\.pem"):
        Tls.given(cert, key, None)
