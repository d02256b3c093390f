"""A connection between two processes of a group that may lie on different hosts, and who may open one.

    -> MAGIC nonce      <- MAGIC nonce proof      -> proof      then frames of wire.py

Both sides prove that they know the key (HMAC over both nonces) before anything of the other's is read that could be
larger than the proof. Without a key whoever reaches the port may join. Frames are neither encrypted nor signed: see
"Several nodes" in docs/operations.md. A host that vanishes is noticed by the system's own probes.
"""

import contextlib
import hmac
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from vlmoe_serve.engine.nodes import wire
from vlmoe_serve.engine.nodes.wire import WireError

_MAGIC = b"vlmoe-group/1\n"
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_HANDSHAKE_S = 10.0
# probes of a silent peer: the first after so long, then each, and so many
_PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
_MIN_KEY_BYTES = 16


class Closed(OSError):
    """The other side has hung up."""


class NotAdmitted(OSError):
    """The other side does not know our key, or we do not know its."""


def read_key(path: Path | None) -> bytes:
    """The key in a file, without the line break behind it; empty without a file.

    Raises:
        ValueError: it cannot be read, or is too short to be a secret.
    """
    if path is None:
        return b""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if len(key) < _MIN_KEY_BYTES:
        raise ValueError(f"{path}: the key has {len(key)} bytes, at least {_MIN_KEY_BYTES} are needed")
    return key


class Link:
    """One end. It blocks; whoever closes it wakes the one who waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def accept(cls, sock: socket.socket, key: bytes) -> "Link":
        """The side that was called.

        Raises:
            NotAdmitted: the caller does not know the key. OSError: it is gone, or speaks something else.
        """
        end_s = time.monotonic() + _HANDSHAKE_S
        sock.settimeout(_HANDSHAKE_S)
        ours = secrets.token_bytes(_NONCE_BYTES)
        sock.sendall(_MAGIC + ours)
        theirs = _greeting(sock, end_s)
        proof = _exactly(sock, _PROOF_BYTES, end_s)
        if not hmac.compare_digest(proof, _proof(key, b"caller", ours, theirs)):
            sock.sendall(bytes(_PROOF_BYTES))
            raise NotAdmitted("a caller does not know the key of the rendezvous")
        sock.sendall(_proof(key, b"called", ours, theirs))
        return cls(_watched(sock))

    @classmethod
    def connect(cls, host: str, port: int, key: bytes) -> "Link":
        """The side that calls.

        Raises:
            NotAdmitted: the other side does not know the key. OSError: nobody is there.
        """
        end_s = time.monotonic() + _HANDSHAKE_S
        sock = socket.create_connection((host, port), timeout=_HANDSHAKE_S)
        try:
            theirs = _greeting(sock, end_s)
            ours = secrets.token_bytes(_NONCE_BYTES)
            sock.sendall(_MAGIC + ours + _proof(key, b"caller", theirs, ours))
            proof = _exactly(sock, _PROOF_BYTES, end_s)
            if not hmac.compare_digest(proof, _proof(key, b"called", theirs, ours)):
                raise NotAdmitted("the key of the rendezvous is another one there")
            return cls(_watched(sock))
        except BaseException:
            sock.close()
            raise

    @property
    def address(self) -> str:
        """Of this host, as the other one sees it."""
        return str(self._sock.getsockname()[0])

    @property
    def peer(self) -> str:
        """Address of the other host."""
        return str(self._sock.getpeername()[0])

    def fileno(self) -> int:
        """To wait for it with others."""
        return self._sock.fileno()

    def send(self, message: object) -> None:
        """One message."""
        for part in wire.pack(message):
            self._sock.sendall(part)

    def receive(self, timeout_s: float | None = None, max_bytes: int = wire.MAX_BYTES) -> Any:
        """The next message.

        Args:
            timeout_s: how long it may take until it is whole; None waits.
            max_bytes: a longer one is refused before it is read.

        Raises:
            OSError: the other side is gone, or silent for too long, or what came is no message.
        """
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            head_bytes, rest_bytes = wire.LENGTHS.unpack(_exactly(self._sock, wire.LENGTHS.size, end_s))
            if head_bytes + rest_bytes > max_bytes:
                raise WireError(f"a message of {head_bytes + rest_bytes} bytes is none of ours")
            head = bytes(_exactly(self._sock, head_bytes, end_s))
            return wire.unpack(head, _exactly(self._sock, rest_bytes, end_s))
        finally:
            if timeout_s is not None:
                self._sock.settimeout(None)

    def close(self) -> None:
        """Hang up, also for a thread that waits here."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def _proof(key: bytes, side: bytes, of_called: bytes, of_caller: bytes) -> bytes:
    return hmac.digest(key, side + of_called + of_caller, "sha256")


def _greeting(sock: socket.socket, end_s: float) -> bytes:
    greeting = _exactly(sock, len(_MAGIC) + _NONCE_BYTES, end_s)
    if not greeting.startswith(_MAGIC):
        raise WireError("the other side is no vlmoe, or one of another version")
    return bytes(greeting[len(_MAGIC) :])


def _watched(sock: socket.socket) -> socket.socket:
    sock.settimeout(None)
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            # not every system has all of them
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def _exactly(sock: socket.socket, size: int, end_s: float | None) -> bytearray:
    body = bytearray(size)
    view, place = memoryview(body), 0
    while place < size:
        if end_s is not None:
            # of all of it: a byte now and then is no sign of life
            sock.settimeout(max(end_s - time.monotonic(), 0.001))
        num = sock.recv_into(view[place:])
        if not num:
            raise Closed("the other side closed the connection")
        place += num
    return body
