"""A real mail server for targets: aiosmtpd over TLS, which does wrong what it is told to.

As a process of its own: `python -m tests.support.mail_server --help`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal, Self

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import MISSING, AuthResult, LoginPassword

#: Fault → the answer at that place.
ANSWERS = {
    "450_rcpt": "450 mailbox busy",
    "550_rcpt": "550 no such user",
    "451_data": "451 try later",
    "554_data": "554 looks like spam",
    **{f"{code}_data": f"{code} not a mail like this" for code in (530, 534, 535, 538)},
    "454_auth": "454 the login is away for a moment",
    "535_auth": "535 no such user",
    "530_mail": "530 log in first",
}
#: Headers in the ledger.
NOTED = ("Message-ID", "In-Reply-To", "To", "Subject")
#: How long a server that is away is away.
AWAY_SECONDS = 0.3


class MailServer:
    """On a free port of loopback, behind STARTTLS or TLS, with a login. `mails` are those it has taken."""

    def __init__(
        self,
        ca: trustme.CA,
        *,
        mode: Literal["starttls", "tls", "plain"] = "starttls",
        password: str = "right",
        ledger: Path | None = None,
        draw: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`draw` says what goes wrong in a conversation when `faults` are used up."""
        self.mails: list[EmailMessage] = []
        self.raw: list[bytes] = []
        #: How often somebody tried to log in.
        self.logins = 0
        self.faults: list[str] = []
        self.password = password
        self._ledger = ledger
        self._draw = draw
        self._away: asyncio.Future[None] | None = None
        self.over: asyncio.Event | None = None
        self.port = _free_port()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("localhost").configure_cert(context)
        more: dict[str, Any] = {"authenticator": self._authenticate, "auth_require_tls": mode == "starttls"}
        if mode == "starttls":
            more |= {"tls_context": context, "require_starttls": True, "auth_required": True}
        elif mode == "tls":
            more |= {"ssl_context": context}
        logging.getLogger("mail.log").setLevel(logging.ERROR)  # it complains of itself at each login
        self._controller = Controller(self, hostname="localhost", port=self.port, **more)
        self._controller.start()

    def message_ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in self.mails]

    def close(self) -> None:
        """Whoever waits in silence is let go."""
        if self.over is not None:
            self._controller.loop.call_soon_threadsafe(self.over.set)
        self._controller.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # aiosmtpd's hooks, on its own loop.

    def _authenticate(self, _server: Any, _session: Any, _envelope: Any, _way: str, given: Any) -> AuthResult:
        self.logins += 1
        right = isinstance(given, LoginPassword) and given.password == self.password.encode()
        return AuthResult(success=right, handled=False)

    async def handle_AUTH(self, _server: Any, session: Any, _envelope: Any, _args: Any) -> Any:  # noqa: N802
        fault = self._fault_of(session)
        return ANSWERS[fault] if fault.endswith("_auth") else MISSING

    async def handle_MAIL(  # noqa: N802  # aiosmtpd's name
        self, _server: Any, session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if self._fault_of(session) == "530_mail":
            return ANSWERS["530_mail"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        match self._fault_of(session):
            case "450_rcpt" | "550_rcpt" as fault:
                return ANSWERS[fault]
            case "silent_before":
                await self._silence()
            case "reset_before":
                server.transport.abort()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        fault = self._fault_of(session)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        if fault.endswith("_data"):
            self._note(mail, fault, taken=False)
            return ANSWERS[fault]
        self.mails.append(mail)
        self.raw.append(envelope.content)
        self._note(mail, fault, taken=True)
        match fault:
            case "silent_after":
                await self._silence()
            case "reset_after":
                server.transport.abort()
            case "451_after":
                return "451 nobody knows"
            case "drip":
                while not server.transport.is_closing():
                    server.transport.write(b"2")
                    await asyncio.sleep(0.02)
        return "250 taken"

    def _note(self, mail: EmailMessage, fault: str, *, taken: bool) -> None:
        if self._ledger is None:
            return
        said: dict[str, Any] = {name: str(mail[name] or "") for name in NOTED}
        with self._ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said | {"fault": fault, "taken": taken}) + "\n")

    async def _go_away(self) -> None:
        """Nobody listens for a moment; who is here already is served."""
        assert self._controller.server is not None  # it listens
        self._controller.server.close()
        await asyncio.sleep(AWAY_SECONDS)
        self._controller.server = await self._controller._create_server()

    async def _silence(self) -> None:
        self.over = asyncio.Event()
        await self.over.wait()

    def _fault_of(self, session: Any) -> str:
        """What goes wrong in this conversation: the next fault, taken once."""
        if not hasattr(session, "fault"):
            session.fault = self.faults.pop(0) if self.faults else self._draw() or ""
            if session.fault == "refused":
                session.fault = ""
                self._away = asyncio.ensure_future(self._go_away())
        return str(session.fault)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve until SIGTERM; the first line on stdout is JSON: the port. The authority is written to `--ca-file`."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mail_server", description=main.__doc__)
    parser.add_argument("--ca-file", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, help="a JSON line for each mail that was taken")
    parser.add_argument("--mode", choices=("starttls", "tls", "plain"), default="starttls")
    parser.add_argument("--password", default="right")
    given = parser.parse_args()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(given.ca_file))
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    with MailServer(ca, mode=given.mode, password=given.password, ledger=given.ledger) as server:
        print(json.dumps({"port": server.port}), flush=True)
        signal.sigwait((signal.SIGTERM, signal.SIGINT))


if __name__ == "__main__":
    main()
