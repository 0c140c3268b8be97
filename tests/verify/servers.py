"""The targets of a round beside the scripted ones: which they are, and the settings of each."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.verify.target_process import CA_FILE, PASSWORD

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

_REST = """
kind = "rest"
url = "{at}/orders"
body = {{ business_id = "${{business_id}}", lead_id = "${{lead_id}}", text = "${{text}}" }}
remote = {{ id = "order.id" }}
undo = {{ url = "{at}/orders/${{remote.id}}" }}
"""


class Own(NamedTuple):
    """A server that is the target of one action of one business, and of nobody else."""

    business: str
    action: str
    #: Its table, but for what all have; `{at}` is where it listens.
    settings: str
    timeout: float = 0.5

    def table(self, at: str) -> str:
        head = f"[businesses.{self.business}.targets.{self.action}]"
        return f"\n{head}{self.settings.format(at=at)}timeout_seconds = {self.timeout}\n"


#: Server → whose target it is: of each kind, and of each class of `rest`.
OWN = {
    "orders": Own("globex-bank", "create_order", _REST + 'idempotency = "keyed"\n'),
    "tickets": Own("acme-deli", "create_support_ticket", _REST),
    "webhook": Own(
        "acme-deli",
        "notify_sales",
        '\nkind = "webhook"\nurl = "{at}/hook"\nsecrets = [{{ file = "webhook.secret" }}]\n',
    ),
    "slack": Own(
        "acme-foods",
        "notify_sales",
        '\nkind = "slack"\nurl = {{ file = "slack.url" }}\ncalls_per_second = 200\n'
        'text = "${{key}}|${{business_id}}|${{lead_id}}|${{text}}"\n'
        'undo_text = "${{key}}|${{business_id}}|${{lead_id}}|${{text}}"\n',
    ),
    "mails": Own(
        "globex-bank",
        "flag_for_review",
        '\nkind = "email"\nhost = "localhost"\nport = {at}\nuser = "leadline"\n'
        'password = {{ file = "mail.password" }}\nsender = "leadline@globex.example"\n'
        f'to = ["review@globex.example", "copies@globex.example"]\nca_file = "{CA_FILE}"\n'
        'subject = "${{business_id}}|${{lead_id}}"\nundo_subject = "${{business_id}}|${{lead_id}}"\n',
        timeout=1.0,  # a handshake and a login are in it
    ),
}


class Targets:
    """Where they listen, and once they are ended what went wrong there."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.addresses = addresses
        #: Server → what was dealt, and how often.
        self.dealt: dict[str, Counter[str]] = {}

    def tables(self) -> list[str]:
        return [own.table(self.addresses[name]) for name, own in OWN.items()]


@contextmanager
def target_servers(folder: Path, seed: int, share: float) -> Iterator[Targets]:
    """`share` of the calls goes wrong, before the deed or after it. Ledgers stand in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.verify.target_process", "--folder", str(folder)]
    with (folder / "targets.err").open("wb") as errors:
        process = subprocess.Popen(
            [*command, "--seed", str(seed), "--share", str(share), "--secret", SECRET],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            targets = Targets(json.loads(process.stdout.readline()))
            (folder / "webhook.secret").write_text(SECRET)
            (folder / "slack.url").write_text(f"{targets.addresses['slack']}/services/T0")
            (folder / "mail.password").write_text(PASSWORD)
            yield targets
        finally:
            process.terminate()
            process.wait(10)
        last = process.stdout.read().splitlines()
        targets.dealt = {name: Counter(dealt) for name, dealt in json.loads(last[-1]).items()}
