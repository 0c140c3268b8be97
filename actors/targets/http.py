"""HTTP as targets need it: what was sent is known, everything is bounded, and nothing is followed or kept.

httpx's transport is used as it is but for its sockets: they end with their call's time, whatever drips, and
note that something left. Without httpx's client there are no redirects, cookies, or log lines with a url.
No proxy is used.
"""

from __future__ import annotations

import contextlib
import functools
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpcore
import httpx
from msgspec import Struct

from actors.targets.guarded import Ended
from domain.outcomes import Failed, Misconfigured, Outcome, Unknown

MAX_ANSWER = 65_536
#: Of the settings alone: what a template is filled with is bounded and escaped before it comes here.
_NO_REQUEST = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)
#: Shorter than what servers keep an idle connection for: one that is closed as we write loses its answer.
_IDLE_SECONDS = 2.0


class Ask(Struct, frozen=True):
    """One request, complete."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """What came back. `body` is what could be read of at most `MAX_ANSWER` bytes; `whole` says if that is all."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool


class Http:
    """A pool of connections to one target. Any thread; a call belongs to the thread that makes it.

    Kept connections save a handshake, and now and then one is lost as it is closed by the other side; a
    target that may be called once therefore gets a new one for each call (`keep=False`).
    """

    def __init__(self, timeout: float, connect_timeout: float, tls: ssl.SSLContext, *, keep: bool) -> None:
        self._timeout = timeout
        self._calls = _Calls(connect_timeout)
        kept = None if keep else 0
        limits = httpx.Limits(max_keepalive_connections=kept, keepalive_expiry=_IDLE_SECONDS)
        self._transport = httpx.HTTPTransport(verify=tls, trust_env=False, limits=limits)
        self._transport._pool = httpcore.ConnectionPool(  # noqa: SLF001  # httpx hands no backend on
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=kept,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=_Backend(self._calls),
        )

    def send(self, ask: Ask) -> Answer:
        """Raises `Ended`: as failed where nothing of the request was sent, as unknown where something was."""
        self._calls.begin(self._timeout)
        try:
            request = _request(ask)
            response = self._transport.handle_request(request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Ended(self._lost(error)) from None
        with contextlib.closing(response):
            body, whole = _read(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, body, whole)

    def close(self) -> None:
        self._transport.close()

    def _lost(self, error: Exception) -> Outcome:
        if not self._calls.sent and isinstance(error, _NO_REQUEST):
            return Misconfigured("url and headers make no request")  # the error's text would say both
        what = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
        what = what or type(error).__name__
        if self._calls.sent:
            return Unknown(f"{what}; the request was sent")
        what = "no connection in time" if isinstance(error, httpx.TimeoutException) else what
        return Failed(f"{what}; nothing was sent")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Certificates and names are checked: against `ca_file` where given, else against the usual authorities.

    Raises OSError (`ssl.SSLError` is one) for a file that is no certificate.
    """
    return ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()


#: One for all HTTP targets: to read the authorities takes a tenth of a second.
http_tls_context = functools.cache(tls_context)


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one, `timeout` seconds for all of them.

    Raises OSError. Looking the name up has the resolver's own time.
    """
    until = time.monotonic() + timeout
    last: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        wire = socket.socket(family, kind, protocol)
        try:
            wire.settimeout(max(0.001, until - time.monotonic()))
            wire.connect(address)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return wire
        except OSError as error:
            wire.close()
            last = error
    raise last


def _request(ask: Ask) -> httpx.Request:
    headers = [(name.encode(), value.encode()) for name, value in ask.headers.items()]
    headers += [(b"Accept-Encoding", b"identity"), (b"User-Agent", b"leadline")]
    return httpx.Request(ask.method, ask.url, headers=headers, content=ask.body)


def _read(response: httpx.Response) -> tuple[bytes, bool]:
    """What can be read of the body; nothing that goes wrong here takes back the status that has come."""
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > MAX_ANSWER:
                return bytes(body[:MAX_ANSWER]), False
    except (httpx.HTTPError, OSError):
        return bytes(body), False
    return bytes(body), True


class _Calls(threading.local):
    """The call that this thread makes: until when, and whether anything of it was sent."""

    def __init__(self, connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self.until = 0.0
        self.sent = False

    def begin(self, timeout: float) -> None:
        self.until = time.monotonic() + timeout
        self.sent = False

    def left(self) -> float:
        """Raises TimeoutError where nothing is left."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Backend(httpcore.NetworkBackend):
    """Connections whose every wait ends with the call's time."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        calls = self._calls
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            return _Stream(connect(host, port, min(calls.connect_timeout, calls.left())), calls)


class _Stream(httpcore.NetworkStream):
    """A connection, plain or TLS. What is written after the handshake is the request."""

    def __init__(self, wire: socket.socket, calls: _Calls) -> None:
        self._wire = wire
        self._calls = calls

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _mapped(httpcore.ReadTimeout, httpcore.ReadError):
            self._wire.settimeout(self._calls.left())
            return self._wire.recv(max_bytes)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _mapped(httpcore.WriteTimeout, httpcore.WriteError):
            rest = memoryview(buffer)
            while rest:
                self._wire.settimeout(self._calls.left())
                self._calls.sent = True
                rest = rest[self._wire.send(rest) :]

    def close(self) -> None:
        self._wire.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        calls = self._calls
        try:
            with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._wire.settimeout(min(calls.connect_timeout, calls.left()))
                return _Stream(ssl_context.wrap_socket(self._wire, server_hostname=server_hostname), calls)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._wire if isinstance(self._wire, ssl.SSLSocket) else None
        if info == "is_readable":  # of a kept connection: the other side has closed it
            return _is_readable(self._wire)
        return None


def _is_readable(wire: socket.socket) -> bool:
    """Asked by whichever thread looks through the pool, maybe of a connection that another one has just been
    given: so nothing about the socket is changed, not even for a moment, and nothing waits."""
    number = wire.fileno()
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


@contextlib.contextmanager
def _mapped(in_time: type[Exception], otherwise: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise in_time("timed out") from error
    except OSError as error:
        raise otherwise(error.strerror or str(error) or type(error).__name__) from error
