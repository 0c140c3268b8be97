"""The targets of a round beside the scripted ones: servers that go wrong in every way that docs/targets.md knows.

A process of its own, which no kill reaches: `python -m tests.verify.target_process`. A share of the calls goes wrong;
each server deals out its ways to, all of them before one comes again. Once the file `WELL` is there, all goes well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trustme

from tests.support.mail_server import AWAY_SECONDS, MailServer
from tests.support.target_rows import HTTP_ROWS, MAIL_ROWS
from tests.support.target_servers import (
    App,
    Ledger,
    Line,
    OrderSystem,
    Reply,
    SlackChannel,
    TargetServer,
    WebhookReceiver,
)

CA_FILE = "mail-ca.pem"
PASSWORD = "right"
#: In the ledgers' folder: from now on every answer is good.
WELL = "well"
#: What is no request's own doing; a wrong password is what `535_auth` stands for.
_NOT_DRAWN = {"", "wrong password"}
HTTP_WRONGS = tuple(fault for row in HTTP_ROWS.values() for fault in row if fault not in _NOT_DRAWN)
#: Slack's 404 is a sentence below the table: the webhook is no more, which is the configuration's matter.
SLACK_WRONGS = (*HTTP_WRONGS, "404")
MAIL_WRONGS = tuple(fault for row in MAIL_ROWS.values() for fault in row if fault not in _NOT_DRAWN)
#: Server → its ways to go wrong, where they are not those of all that speak HTTP.
WRONGS = {"slack": SLACK_WRONGS, "mails": MAIL_WRONGS}
#: Of an order that is there, no server says that it is gone: a compensation would take that for done.
_LIES_OF_AN_UNDO = {"404", "410"}


class Luck:
    """What goes wrong next. Any thread; each server has its own."""

    def __init__(self, wrongs: Iterable[str], share: float, seed: str, folder: Path) -> None:
        self._wrongs = tuple(wrongs)
        self._share = share
        self._dice = random.Random(seed)
        self._well = folder / WELL
        self._deck: list[str] = []
        self._lock = threading.Lock()
        #: Wrong → how often it was dealt.
        self.dealt: Counter[str] = Counter()

    def draw(self, unfit: Iterable[str] = ()) -> str | None:
        """None where all goes well. What is `unfit` here stays in the deck."""
        with self._lock:
            if self._dice.random() >= self._share or self._well.exists():
                return None
            if not self._deck:
                self._deck = self._dice.sample(self._wrongs, len(self._wrongs))
            fault = next((fault for fault in self._deck if fault not in set(unfit)), None)
            if fault is not None:
                self._deck.remove(fault)
                self.dealt[fault] += 1
            return fault


class RoundServer(TargetServer):
    """Goes wrong by its luck, notes each request whatever it says, and is away now and then."""

    def __init__(self, app: App, luck: Luck, key_of: Callable[[Mapping[str, str], bytes], str]) -> None:
        super().__init__(app)
        self._luck = luck
        self._key_of = key_of

    def next_fault(self, method: str) -> str | None:
        fault = self._luck.draw(_LIES_OF_AN_UNDO if method != "POST" else ())
        if fault == "refused":
            threading.Thread(target=self.go_away, args=(AWAY_SECONDS,), daemon=True).start()
            return None
        return fault

    def refuses(self, fault: str, headers: Mapping[str, str], body: bytes) -> None:
        self.app.ledger.note(Line(self._key_of(headers, body), f"refused: {fault}", repeated=False))


def _of_header(name: str) -> Callable[[Mapping[str, str], bytes], str]:
    return lambda headers, _: headers.get(name, "")


def _of_text(_: Mapping[str, str], body: bytes) -> str:
    """The channel has no key: the settings write it into the text."""
    return str(json.loads(body)["text"].partition("|")[0])


class Channel(SlackChannel):
    """Each message is noted under the key that its text begins with."""

    def serve(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        message = json.loads(body)
        self.ledger.note(Line(_of_text(headers, body), "posted", repeated=False, body=message))
        return Reply(200, b"ok")


class Servers:
    """All of them, each with its ledger in `folder` and luck of its own."""

    def __init__(self, folder: Path, seed: int, share: float, secret: str) -> None:
        def ledger(name: str) -> Ledger:
            return Ledger(folder / f"{name}.jsonl")

        def luck(name: str, wrongs: Iterable[str]) -> Luck:
            self.lucks[name] = Luck(wrongs, share, f"{seed}/{name}", folder)
            return self.lucks[name]

        self.lucks: dict[str, Luck] = {}
        by_key = _of_header("idempotency-key")
        apps: dict[str, tuple[App, Callable[[Mapping[str, str], bytes], str]]] = {
            "orders": (OrderSystem(ledger("orders")), by_key),
            "tickets": (OrderSystem(ledger("tickets"), honours_key=False), by_key),
            "webhook": (WebhookReceiver(secret, ledger("webhook")), _of_header("webhook-id")),
            "slack": (Channel("", ledger("slack")), _of_text),
        }
        self.http = {
            name: RoundServer(app, luck(name, WRONGS.get(name, HTTP_WRONGS)), key_of)
            for name, (app, key_of) in apps.items()
        }
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / CA_FILE))
        mail = luck("mails", WRONGS["mails"])
        self.mail = MailServer(authority, password=PASSWORD, ledger=folder / "mails.jsonl", draw=mail.draw)

    def addresses(self) -> dict[str, str]:
        """Name → url, of the mail server its port."""
        return {name: server.url for name, server in self.http.items()} | {"mails": str(self.mail.port)}

    def close(self) -> None:
        for server in self.http.values():
            server.close()
        self.mail.close()


def main() -> None:
    """Serve until SIGTERM, or until nobody is there who began it; the first line on stdout is JSON: the addresses, the
    last one what was dealt."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify.target_process", description=main.__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="for ledgers, and where `well` is looked for"
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--share", type=float, required=True)
    parser.add_argument("--secret", required=True, help="of the webhook")
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    servers = Servers(given.folder, given.seed, given.share, given.secret)
    parent = os.getppid()
    print(json.dumps(servers.addresses()), flush=True)
    while signal.sigtimedwait((signal.SIGTERM, signal.SIGINT), 1.0) is None and os.getppid() == parent:
        pass
    servers.close()
    print(json.dumps({name: luck.dealt for name, luck in servers.lucks.items()}), flush=True)


if __name__ == "__main__":
    main()
