"""Real HTTP servers for targets: an order system, a webhook receiver, a channel like Slack's, each with a ledger.

A server does what it is told to do wrong (`faults`), request by request, and counts what happened in truth.
As a process of its own: `python -m tests.support.target_servers --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, Self

from msgspec import Struct
from standardwebhooks import Webhook, WebhookVerificationError

#: Fault → the answer given before anything happens.
REFUSALS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "302": (302, {"Location": "/elsewhere"}),
    "401": (401, {}),
    "403": (403, {}),
    "404": (404, {}),
    "408": (408, {}),
    "409": (409, {}),
    "410": (410, {}),
    "422": (422, {}),
    "425": (425, {}),
    "429": (429, {"Retry-After": "7"}),
    "429_bare": (429, {}),
    "500": (500, {}),
    "502": (502, {}),
    "503": (503, {}),
    "503_pause": (503, {"Retry-After": "3"}),
}
#: Faults after the deed: it has happened, and the answer says otherwise, or never comes whole.
AFTER_THE_DEED = ("500_after", "silent_after", "reset_after", "reset_within", "broken", "drip", "huge")
#: Nothing has happened, and no answer comes.
BEFORE_THE_DEED = ("silent_before", "reset_before")

#: Ways in which a server goes wrong by chance.
WRONGS = ("500", "500_after", "429", "reset_before", "reset_after", "broken")


class Reply(Struct, frozen=True):
    status: int
    body: bytes = b""


class Line(Struct, frozen=True):
    """One request that reached the deed. `repeated`: its key had done it before, and nothing was done."""

    key: str
    what: str
    repeated: bool
    body: Any = None


class Ledger:
    """What happened, in order; in a file too, a JSON line each, where one is given. Any thread."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.lines: list[Line] = []

    def note(self, line: Line) -> None:
        with self._lock:
            self.lines.append(line)
            if self._file is not None:
                entry = {"key": line.key, "what": line.what, "repeated": line.repeated, "body": line.body}
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")

    def effects(self, what: str | None = None) -> Counter[str]:
        """Key → how often it took effect."""
        with self._lock:
            return Counter(n.key for n in self.lines if not n.repeated and what in (None, n.what))


class App(Protocol):
    ledger: Ledger

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply: ...


class OrderSystem:
    """Orders: `POST /orders` creates, `DELETE /orders/<id>` and `PATCH` to `{"status": "cancelled"}` cancel.

    A repeated Idempotency-Key creates nothing more if `honours_key`.
    """

    def __init__(
        self, ledger: Ledger | None = None, *, honours_key: bool = True, token: str | None = None
    ) -> None:
        self.ledger = ledger or Ledger()
        self.honours_key = honours_key
        self.token = token
        self.orders: dict[str, dict[str, Any]] = {}
        self._by_key: dict[str, str] = {}
        self._lock = threading.Lock()

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, b'{"error": "wrong token: %s"}' % headers.get("authorization", "").encode())
        key = headers.get("idempotency-key", "")
        with self._lock:
            if (method, path) == ("POST", "/orders"):
                return self._create(key, json.loads(body or b"{}"))
            if method in ("DELETE", "PATCH"):
                return self._cancel(key, path.rpartition("/")[2])
        return Reply(404)

    def standing(self) -> list[str]:
        """Ids of the orders that are not cancelled."""
        return [number for number, order in self.orders.items() if order["status"] == "placed"]

    def key_of(self, number: str) -> str:
        """The key that an order was created under."""
        return next(key for key, known in self._by_key.items() if known == number)

    def _create(self, key: str, asked: dict[str, Any]) -> Reply:
        known = self._by_key.get(key) if self.honours_key else None
        number = known or f"o-{len(self.orders) + 1}"
        if known is None:
            self.orders[number] = {"status": "placed", **asked}
            self._by_key[key] = number
        self.ledger.note(Line(key, "created", known is not None, asked))
        made = {"order": {"id": number}, "links": [{"href": f"/orders/{number}"}]}
        return Reply(201, json.dumps(made).encode())

    def _cancel(self, key: str, number: str) -> Reply:
        order = self.orders.get(number)
        if order is None:
            return Reply(404)
        was, order["status"] = order["status"], "cancelled"
        self.ledger.note(Line(key, "cancelled", self.honours_key and was == "cancelled", number))
        return Reply(204)


class WebhookReceiver:
    """Verifies each signature with the library's own verifier; a webhook-id that it knows is no news."""

    def __init__(self, secret: str, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self.secret = secret
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        try:
            event = Webhook(self.secret).verify(body, dict(headers))
        except WebhookVerificationError as error:
            return Reply(401, str(error).encode())
        key = headers["webhook-id"]
        with self._lock:
            self.ledger.note(Line(key, event["type"], key in self._known, event))
            self._known.add(key)
        return Reply(204)


class SlackChannel:
    """`POST /services/<token>` writes; more than `per_second` messages are refused with 429."""

    def __init__(self, token: str, ledger: Ledger | None = None, *, per_second: float = 1e9) -> None:
        self.ledger = ledger or Ledger()
        self.token = token
        self.per_second = per_second
        self._last = 0.0
        self._lock = threading.Lock()

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if path != f"/services/{self.token}":
            return Reply(403, b"invalid_token")
        message = json.loads(body)
        with self._lock:
            if time.monotonic() < self._last + 1 / self.per_second:
                return Reply(429, b"rate_limited")
            self._last = time.monotonic()
            self.ledger.note(Line(str(len(self.ledger.lines)), "posted", repeated=False, body=message))
        return Reply(200, b"ok")


class TargetServer:
    """One app on a free port of loopback. `faults` are used up in order; without any it does as the app says.

    With a `share`, that part of the requests goes wrong by chance, in one of the ways of `wrongs`.
    """

    def __init__(
        self,
        app: App,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        share: float = 0.0,
        wrongs: Iterable[str] = WRONGS,
        seed: int = 1,
        delay: float = 0.0,
    ) -> None:
        self.app = app
        self.faults: list[str] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        self.delay = delay
        self._share = share
        self._wrongs = tuple(wrongs)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._tls = tls
        self._scheme = "https" if tls is not None else "http"
        self._listening = threading.Lock()
        self._listen(port)

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._server.server_address[1]}"

    def next_fault(self, method: str) -> str | None:
        """What goes wrong with the request at hand."""
        with self._lock:
            if self.faults:
                return self.faults.pop(0)
            if self._share and self._random.random() < self._share:
                return self._random.choice(self._wrongs)
            return None

    def go_away(self, seconds: float) -> None:
        """Nobody listens for so long; who is here already is served. Returns when it is back."""
        with self._listening:
            port = self._server.server_address[1]
            self._end()
            if not self.over.wait(seconds):
                self._listen(port)

    def _listen(self, port: int) -> None:
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def _end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def refuses(self, fault: str, headers: Mapping[str, str], body: bytes) -> None:
        """Nothing happened, and this was said."""

    def close(self) -> None:
        """Whoever waits in silence is let go."""
        self.over.set()
        with self._listening:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or refused our certificate, is what the tests are about."""


def _handler_of(server: TargetServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        target_server = server

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    target_server: TargetServer

    def do_POST(self) -> None:
        server = self.target_server
        fault = server.next_fault(self.command)
        if fault == "silent_before":
            return self._stay_silent()
        if fault == "reset_before":
            return self._reset()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append((self.command, self.path, headers, body))
        if server.delay:
            time.sleep(server.delay)
        if fault is not None and fault in REFUSALS:
            status, more = REFUSALS[fault]
            server.refuses(fault, headers, body)
            return self._answer(Reply(status, f"refused: {fault}".encode()), more)
        if fault == "429_date":
            server.refuses(fault, headers, body)
            until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
            return self._answer(Reply(429), {"Retry-After": until})
        reply = server.app.serve(self.command, self.path, headers, body)
        wrong = _WRONG.get(fault or "")
        if wrong is not None:
            return wrong(self)
        return self._answer(reply, {"Retry-After": "1"} if reply.status == 429 else {})

    do_DELETE = do_PATCH = do_PUT = do_POST  # noqa: N815  # the library's names

    def _answer(self, reply: Reply, headers: Mapping[str, str]) -> None:
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def _stay_silent(self) -> None:
        self.target_server.over.wait(30)
        self.close_connection = True

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def _reset_within(self) -> None:
        self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"order": ')
        self._reset()

    def _drip(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.target_server.over.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def _huge(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while not self.target_server.over.is_set():
            self.wfile.write(b"[" * 65536)

    def _fail(self) -> None:
        self._answer(Reply(500), {})

    def _break(self) -> None:
        self._answer(Reply(200, b'{"order": {"id'), {})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
        """The tests look at the ledger."""


_WRONG: Mapping[str, Callable[[_Handler], None]] = {
    "500_after": _Handler._fail,
    "silent_after": _Handler._stay_silent,
    "reset_after": _Handler._reset,
    "reset_within": _Handler._reset_within,
    "broken": _Handler._break,
    "drip": _Handler._drip,
    "huge": _Handler._huge,
}


def main() -> None:
    """Serve until SIGTERM; the first line on stdout is JSON: the urls by app."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.target_servers", description=__doc__)
    parser.add_argument("--ledger", type=Path, help="folder for orders.jsonl, webhook.jsonl, slack.jsonl")
    parser.add_argument(
        "--share", type=float, default=0.0, help="part of the requests that goes wrong by chance"
    )
    parser.add_argument("--wrongs", nargs="+", default=WRONGS, help="in which ways")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument(
        "--port", type=int, default=0, help="of the order system; the next two are the others'"
    )
    parser.add_argument("--secret", default="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", help="of the webhook")
    parser.add_argument("--slack-token", default="T0/B0/demo")
    parser.add_argument("--slack-rate", type=float, default=1e9, help="messages a second")
    given = parser.parse_args()
    apps: dict[str, App] = {
        "orders": OrderSystem(_ledger(given.ledger, "orders")),
        "webhook": WebhookReceiver(given.secret, _ledger(given.ledger, "webhook")),
        "slack": SlackChannel(given.slack_token, _ledger(given.ledger, "slack"), per_second=given.slack_rate),
    }
    servers = {
        name: TargetServer(
            app,
            port=given.port + n if given.port else 0,
            share=given.share,
            wrongs=given.wrongs,
            seed=given.seed + n,
            delay=given.delay,
        )
        for n, (name, app) in enumerate(apps.items())
    }
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    print(json.dumps({name: server.url for name, server in servers.items()}), flush=True)
    ended.wait()
    for server in servers.values():
        server.close()
    sys.exit(0)


def _ledger(folder: Path | None, name: str) -> Ledger:
    return Ledger(folder / f"{name}.jsonl" if folder is not None else None)


if __name__ == "__main__":
    main()
