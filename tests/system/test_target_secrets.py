"""No secret is in anything that Leadline writes or says, after failures of every kind of target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.support.eventually import eventually
from tests.support.mail_server import MailServer
from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline
from tests.support.system_wire import message, order
from tests.support.target_kinds import OTHER_WHSEC, RIGHT, WRONG
from tests.support.target_servers import OrderSystem, SlackChannel, TargetServer, WebhookReceiver

WHSEC = "whsec_" + "UmlnaHRSaWdodFJpZ2h0UmlnaHRSaWdo"
MODULE = """
class Talkative:
    idempotency = "once"
    def __init__(self, given):
        self.given = given
    def call(self, request):
        raise RuntimeError("cannot log in with " + self.given.secrets["token"].text())
"""


class Outside:
    """A server a kind, each with a wrong secret at first."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.orders = ends.enter_context(TargetServer(OrderSystem(token=RIGHT)))
        self.refusing = ends.enter_context(TargetServer(OrderSystem(token=RIGHT)))
        self.webhook = ends.enter_context(TargetServer(WebhookReceiver(WHSEC)))
        self.slack = ends.enter_context(TargetServer(SlackChannel(RIGHT)))
        self.mail = ends.enter_context(MailServer(ca, password=RIGHT))
        (folder / "talkative.py").write_text(MODULE, encoding="utf-8")

    def settings(self) -> str:
        rest = 'headers = { Authorization = "Bearer ${secret.token}" }\nbody = { note = "${text}" }\n'
        return f"""
[targets.create_order]
kind = "rest"
url = "{self.orders.url}/orders"
{rest}secrets = {{ token = {{ file = "wrong" }} }}
[targets.notify_sales]
kind = "slack"
url = {{ file = "slack-url" }}
[targets.create_support_ticket]
kind = "webhook"
url = "{self.webhook.url}"
secrets = [{{ file = "whsec" }}]
[businesses.acme-deli.targets.create_order]
kind = "rest"
url = "{self.refusing.url}/orders"
{rest}secrets = {{ token = {{ file = "right" }} }}
[businesses.acme-deli.targets.notify_sales]
kind = "email"
host = "localhost"
port = {self.mail.port}
user = "leadline"
password = {{ file = "wrong" }}
sender = "leadline@acme.example"
to = ["sales@acme.example"]
ca_file = "ca.pem"
[businesses.globex-bank.targets.notify_sales]
kind = "module"
class = "talkative:Talkative"
secrets = {{ token = {{ file = "right" }} }}
"""

    def were_all_called(self) -> None:
        servers = (self.orders, self.refusing, self.webhook, self.slack)
        assert all(server.requests for server in servers)
        assert self.mail.logins


@pytest.fixture
def outside(house: Leadline) -> Iterator[Outside]:
    with ExitStack() as ends:
        made = Outside(house.folder, ends)
        made.refusing.faults += ["500", "422"]
        yield made


@pytest.mark.slow
def test_after_failures_of_every_kind_no_secret_is_in_any_file_or_answer(
    house: Leadline, outside: Outside
) -> None:
    url = f"{outside.slack.url}/services/{WRONG}"
    secrets = {"right": RIGHT, "wrong": WRONG, "whsec": OTHER_WHSEC, "slack-url": url}
    for name, text in secrets.items():
        (house.folder / name).write_text(text, encoding="utf-8")
    house.set(TENANTS + SHORT_WAITS + outside.settings())
    house.run("--verbose")
    house.publish(
        [
            order("m1", "lead-1", "acme-foods"),
            message("m2", "lead-2", "acme-foods", intent="COMPLAINT"),
            message("m3", "lead-3", "acme-foods"),
            order("m4", "lead-4", "acme-deli"),
            message("m5", "lead-5", "acme-deli"),
            message("m6", "lead-6", "globex-bank"),
        ]
    )
    eventually(outside.were_all_called, within=30)
    eventually(
        lambda: {"acme-deli", "globex-bank"} <= {n["business_id"] for n in house.ask("dlq")}, within=30
    )
    said = [str(house.ask(name)) for name in ("tasks", "dlq", "breakers", "leads", "metrics")]
    for business, lead in (("acme-foods", "lead-1"), ("acme-deli", "lead-4"), ("globex-bank", "lead-6")):
        said.append(house.cli("lead", business, lead).out)
    said.append(house.cli("status").out + house.cli("doctor", "--json").out)
    house.end_all()
    for secret in (RIGHT, WRONG, OTHER_WHSEC):
        assert secret not in "".join(said)
        for file in house.folder.parent.rglob("*"):
            if file.is_file() and file.name not in secrets:
                assert secret.encode() not in file.read_bytes(), file
