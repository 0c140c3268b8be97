"""Each kind of target beside its real server, so that one test can be put to all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import trustme

import target_settings as ts
from domain.events import Idempotency
from domain.outcomes import Failed, Outcome, Unknown
from domain.ports import Target, TargetRequest
from domain.tokens import derived_id
from target_wiring import make_target
from tests.support.actors_outside import T0
from tests.support.mail_server import MailServer
from tests.support.target_servers import App, OrderSystem, SlackChannel, TargetServer, WebhookReceiver

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_WHSEC = "whsec_" + "A" * 32
#: What no error, log or event may hold, whatever goes wrong.
RIGHT = "right-Secret-3f9a"
WRONG = "wrong-Secret-77c1"
KEY = "acme-foods/lead-1/m1/0.notify_sales"


def request_of(key: str = KEY, *, text: str = "Do you have rye flour?", **changes: Any) -> TargetRequest:
    fields: dict[str, object] = {
        "lead_id": "+4915112345678",
        "message_id": "m1",
        "intent": "ORDER_REQUEST",
        "text": text,
        "entities": {"product": "flour"},
        "response": "soon",
    }
    asked = TargetRequest(key, "sales.notify", "acme-foods", "+4915112345678", fields)
    return msgspec.structs.replace(asked, title="Contact the lead: +4915112345678", received=T0, **changes)


def undo_of(request: TargetRequest, remote: dict[str, str]) -> TargetRequest:
    return msgspec.structs.replace(
        request, key=f"{request.key}/undo", kind="sales.correct", remote=remote, undo=True
    )


class Kind(ABC):
    """A target of one kind and its server. Its secret is in a file, and can be a wrong one."""

    idempotency: Idempotency
    server: TargetServer | MailServer
    #: Short, so that silence is soon over; long enough for eight handshakes at once on a busy machine.
    timeout = 1.0

    def __init__(self, folder: Path, ca: trustme.CA) -> None:
        self.secret_file = folder / "secret"
        self.ca_file = folder / "ca.pem"
        ca.cert_pem.write_to_path(str(self.ca_file))
        self.ca = ca
        self.give(self.right)
        self.start()
        self.made: list[Target] = []
        self.target = self.make()

    @property
    def right(self) -> str:
        return RIGHT

    @property
    def wrong(self) -> str:
        return WRONG

    def give(self, secret: str) -> None:
        """What the secret's file holds from now on."""
        self.secret_file.write_text(secret + "\n", encoding="utf-8")

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def settings(self, url: str | None = None) -> ts.Target: ...

    @abstractmethod
    def effects(self) -> int:
        """How often the deed was done."""

    @abstractmethod
    def fault(self, *names: str) -> None:
        """What goes wrong next, request by request."""

    def close(self) -> None:
        """The server's and the target's sockets; a target in a process lives as long as that."""
        self.server.close()
        for target in self.made:
            http = getattr(getattr(target, "_target", None), "_http", None)
            if http is not None:
                http.close()

    def make(self, url: str | None = None) -> Target:
        """Another target of the same settings, or one that calls another place."""
        target = make_target(self.settings(url))
        self.made.append(target)
        return target

    @property
    def secret(self) -> ts.Secret:
        return ts.Secret(file=str(self.secret_file))

    def call(self, **changes: Any) -> Outcome:
        return self.target.call(request_of(**changes))

    def driven(self, tries: int = 4) -> Sequence[Outcome]:
        """Calls as the saga makes them: again after a failure, after an unknown outcome only where keyed."""
        outcomes: list[Outcome] = []
        for attempt in range(1, tries + 1):
            outcomes.append(self.call(attempt=attempt))
            again = isinstance(outcomes[-1], Failed) or (
                isinstance(outcomes[-1], Unknown) and self.idempotency != "once"
            )
            if not again:
                break
        return outcomes


class _HttpKind(Kind):
    server: TargetServer
    app: App

    def start(self) -> None:
        self.app = self.make_app()
        self.server = TargetServer(self.app)

    @abstractmethod
    def make_app(self) -> App: ...

    def fault(self, *names: str) -> None:
        self.server.faults += names

    def effects(self) -> int:
        return self.app.ledger.effects().total()


class WebhookKind(_HttpKind):
    idempotency = "keyed"
    app: WebhookReceiver

    @property
    def right(self) -> str:
        return WHSEC

    @property
    def wrong(self) -> str:
        return OTHER_WHSEC

    def make_app(self) -> WebhookReceiver:
        return WebhookReceiver(WHSEC)

    def settings(self, url: str | None = None) -> ts.Target:
        return ts.Webhook(url=url or self.server.url, secrets=(self.secret,), timeout_seconds=self.timeout)


class KeyedRestKind(_HttpKind):
    idempotency: Literal["keyed", "once"] = "keyed"
    app: OrderSystem

    def make_app(self) -> OrderSystem:
        return OrderSystem(token=RIGHT, honours_key=self.idempotency == "keyed")

    def settings(self, url: str | None = None) -> ts.Target:
        base = url or self.server.url
        return ts.Rest(
            url=f"{base}/orders",
            headers={"Authorization": "Bearer ${secret.token}"},
            body={"customer": "${lead_id}", "product": "${entities.product}", "note": "${text}"},
            remote={"id": "order.id", "link": "links.0.href"},
            undo=ts.RestUndo(url=f"{base}/orders/${{remote.id}}"),
            secrets={"token": self.secret},
            idempotency=self.idempotency,
            timeout_seconds=self.timeout,
        )


class OnceRestKind(KeyedRestKind):
    idempotency = "once"


class SlackKind(_HttpKind):
    idempotency = "once"
    app: SlackChannel

    def make_app(self) -> SlackChannel:
        return SlackChannel(RIGHT)

    @property
    def right(self) -> str:
        return f"{self.server.url}/services/{RIGHT}" if hasattr(self, "server") else RIGHT

    @property
    def wrong(self) -> str:
        return f"{self.server.url}/services/{WRONG}"

    def start(self) -> None:
        super().start()
        self.give(self.right)

    def settings(self, url: str | None = None) -> ts.Target:
        if url is not None:
            self.give(f"{url}/services/{RIGHT}")
        return ts.Slack(url=self.secret, timeout_seconds=self.timeout)


class EmailKind(Kind):
    idempotency = "once"
    server: MailServer

    def start(self) -> None:
        self.server = MailServer(self.ca, mode="starttls", password=RIGHT)

    def fault(self, *names: str) -> None:
        self.server.faults += names

    def effects(self) -> int:
        return len(self.server.mails)

    def settings(self, url: str | None = None) -> ts.Target:
        port = self.server.port if url is None else int(url.rpartition(":")[2])
        return ts.Email(
            host="localhost",
            port=port,
            user="leadline",
            password=self.secret,
            sender="leadline@acme.example",
            to=("sales@acme.example",),
            html="<h1>${title}</h1><p>${text}</p>",
            ca_file=str(self.ca_file),
            timeout_seconds=self.timeout,
        )


KINDS: dict[str, type[Kind]] = {
    "webhook": WebhookKind,
    "rest (keyed)": KeyedRestKind,
    "rest (once)": OnceRestKind,
    "slack": SlackKind,
    "email": EmailKind,
}


def message_id(key: str = KEY) -> str:
    return f"<{derived_id(key)}@acme.example>"
