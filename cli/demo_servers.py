"""The systems outside, for the demo: a shop, a receiver of webhooks and a mail server, small, on loopback.

They keep what reached them, so that the demo can show both sides. Each refuses something once.
"""

from __future__ import annotations

import email.policy
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

WEBHOOK_SECRET = "whsec_bGVhZGxpbmUncyBkZW1vIGlzIG5vIHNlY3JldA=="  # noqa: S105  # a demo's
#: The business whose first webhook is refused, so that its order is taken back.
REFUSED_ONCE = "acme-deli"


class Shop:
    """`POST /orders` places an order, once a key; `DELETE /orders/<id>` cancels it. At first it is too busy."""

    def __init__(self) -> None:
        self.orders: dict[str, dict[str, str]] = {}
        self._by_key: dict[str, str] = {}
        self._busy = 1
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        with self._lock:
            if self._busy:
                self._busy -= 1
                return 503, None
            if method == "POST":
                return 201, self._place(headers["idempotency-key"], json.loads(body))
            order = self.orders.get(path.rpartition("/")[2])
            if order is None:
                return 404, None
            order["status"] = "cancelled"
            return 204, None

    def _place(self, key: str, asked: dict[str, str]) -> dict[str, str]:
        number = self._by_key.setdefault(key, f"o-{len(self.orders) + 1}")
        self.orders.setdefault(number, {**asked, "status": "placed"})
        return {"id": number, "link": f"/orders/{number}"}


class Inbox:
    """Verifies each webhook, and takes an id once. The ledger has a line for each that came."""

    def __init__(self) -> None:
        self.ledger: list[dict[str, str]] = []
        self._known: set[str] = set()
        self._refused = False
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        try:
            event = Webhook(WEBHOOK_SECRET).verify(body, dict(headers))
        except WebhookVerificationError as error:
            return 401, str(error)
        with self._lock:
            said = self._said(headers["webhook-id"], event["data"]["business_id"])
            line = {"webhook_id": headers["webhook-id"], "type": event["type"], "said": said}
            self.ledger.append({**line, "lead_id": event["data"]["lead_id"]})
        return (422, "closed for the day") if said == "refused" else (204, None)

    def _said(self, webhook_id: str, business_id: str) -> str:
        if business_id == REFUSED_ONCE and not self._refused:
            self._refused = True
            return "refused"
        if webhook_id in self._known:
            return "known already"
        self._known.add(webhook_id)
        return "taken"


class Outside:
    """All three, with the settings that lead to them."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self.shop = Shop()
        self.inbox = Inbox()
        self.mails: list[EmailMessage] = []
        self._shop_url = _served(ThreadingHTTPServer, _http(self.shop), ends)
        self._inbox_url = _served(ThreadingHTTPServer, _http(self.inbox), ends)
        self._mail_port = int(_served(_Tcp, _smtp(self.mails), ends).rpartition(":")[2])
        self._secret = folder / "webhook-secret"
        self._secret.write_text(WEBHOOK_SECRET, encoding="utf-8")

    def settings(self) -> dict[str, Any]:
        webhook = {"kind": "webhook", "url": self._inbox_url, "secrets": [{"file": str(self._secret)}]}
        return {
            "businesses.acme-deli.targets.create_order": {
                "kind": "rest",
                "url": f"{self._shop_url}/orders",
                "body": {"customer": "${lead_id}", "product": "${entities.product}"},
                "remote": {"id": "id", "link": "link"},
                "undo": {"url": f"{self._shop_url}/orders/${{remote.id}}"},
                "idempotency": "keyed",
            },
            "businesses.acme-deli.targets.notify_sales": webhook,
            "businesses.globex-bank.targets.notify_sales": webhook,
            "businesses.acme-foods.targets.notify_sales": {
                "kind": "email",
                "host": "127.0.0.1",
                "port": self._mail_port,
                "tls": "none",
                "sender": "leadline@acme.example",
                "to": ["sales@acme.example"],
            },
        }


@contextmanager
def outside(folder: Path) -> Iterator[Outside]:
    """The servers, ended at the end."""
    with ExitStack() as ends:
        yield Outside(folder, ends)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True


def _served(kind: type[socketserver.TCPServer], handler: type[Any], ends: ExitStack) -> str:
    server = kind(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    ends.callback(server.server_close)
    ends.callback(server.shutdown)
    return f"http://127.0.0.1:{server.server_address[1]}"


def _http(app: Shop | Inbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, said = app.answer(self.command, self.path, headers, body)
            content = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "1")
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_DELETE = do_POST  # noqa: N815  # the library's name

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the library's name
            """The demo shows what came."""

    return Handler


def _smtp(mails: list[EmailMessage]) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """As much of SMTP as a client needs to hand in a mail."""

        def handle(self) -> None:
            self._say("220 demo")
            while line := self.rfile.readline():
                verb = line[:4].upper().strip()
                if verb == b"DATA":
                    self._say("354 go on")
                    mails.append(message_from_bytes(self._mail(), policy=email.policy.default))
                self._say("221 bye" if verb == b"QUIT" else "250 OK")
                if verb == b"QUIT":
                    return

        def _mail(self) -> bytes:
            lines: list[bytes] = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b"."))
            return b"".join(lines)

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    return Handler
