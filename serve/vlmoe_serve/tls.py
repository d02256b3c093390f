"""TLS for both doors: the server's certificate, and optionally the callers' (mTLS).

Everything is read and checked before anything listens, so that a wrong file is one line at the start and not a failed
handshake later.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from vlmoe_serve.option_sources import UsageError


@dataclass(frozen=True, slots=True)
class Pem:
    """The files' contents, as gRPC's credentials take them: `ssl_server_credentials([(key, cert)], client_ca)`."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the certificate chain, its private key, and the authority of the callers' certificates lie.

    client_ca: who must have signed a caller's certificate; None asks callers for none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def given(cls, cert: Path | None, key: Path | None, client_ca: Path | None) -> "Tls | None":
        """From the options; None without a certificate.

        Raises:
            UsageError: half of what is needed, or files that are none or do not belong together.
        """
        if cert is None or key is None:
            if (cert, key, client_ca) == (None, None, None):
                return None
            raise UsageError("TLS needs both --tls-cert and --tls-key")
        tls = cls(cert, key, client_ca)
        tls.context()
        tls.pem()
        return tls

    @property
    def files(self) -> tuple[Path, ...]:
        """What to watch for changes: a renewed certificate is taken up while serving."""
        return self.cert, self.key

    def context(self) -> ssl.SSLContext:
        """For the HTTP door: TLS 1.2 or newer.

        Raises:
            UsageError: with the file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # an encrypted key would ask on the terminal, where there may be none
            context.load_cert_chain(self.cert, self.key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise UsageError(f"--tls-cert {self.cert}, --tls-key {self.key}: {_reason(error)}") from error
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise UsageError(f"--tls-client-ca {self.client_ca}: {_reason(error)}") from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Let new connections see the certificate that the files hold now.

        Raises:
            UsageError: they do not belong together; the context is left as it was.
        """
        self.context()
        context.load_cert_chain(self.cert, self.key, password=lambda: "")

    def pem(self) -> Pem:
        """For the gRPC door.

        Raises:
            UsageError: a file cannot be read.
        """
        try:
            return Pem(
                self.cert.read_bytes(),
                self.key.read_bytes(),
                None if self.client_ca is None else self.client_ca.read_bytes(),
            )
        except OSError as error:
            raise UsageError(f"{error.filename}: {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
