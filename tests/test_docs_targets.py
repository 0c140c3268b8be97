"""What docs/targets.md shows is what happens."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import target_settings as ts
from actors.executors.registry import discover
from actors.performer import request_of
from actors.targets.webhook import body_of
from domain.events import MessageReceived
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured
from domain.ports import ActionCall
from settings import Settings, load
from target_wiring import make_target
from tests.support.actors_outside import T0
from tests.support.docs import blocks
from tests.support.target_kinds import request_of as request
from tests.support.target_kinds import undo_of

DOCUMENT = "docs/targets.md"
TENANTS = '[tenants.acme]\nbusinesses = ["acme-deli"]\n'


def loaded(folder: Path, text: str) -> Settings:
    file = folder / "leadline.toml"
    file.write_text(TENANTS + text, encoding="utf-8")
    return load(file, env={})


class CrmBusyError(Exception):
    seconds = 3


class CrmRefusedError(Exception):
    pass


class WrongTokenError(Exception):
    pass


class Crm:
    """What a company's own client might be."""

    def __init__(self, pipeline: str, timeout: float) -> None:
        self.deals: dict[str, str] = {}

    def enter(self, token: str, key: str, title: str, text: str) -> str:
        if token != "right":
            raise WrongTokenError
        if text == "busy":
            raise CrmBusyError("busy")
        if text == "no":
            raise CrmRefusedError("no such product")
        return self.deals.setdefault(key, f"d-{len(self.deals) + 1}")

    def withdraw(self, token: str, deal: str) -> None:
        self.deals = {key: known for key, known in self.deals.items() if known != deal}


@pytest.fixture
def crm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's module, importable."""
    client = types.ModuleType("my_company.client")
    vars(client).update(Crm=Crm, CrmBusy=CrmBusyError, CrmRefused=CrmRefusedError, WrongToken=WrongTokenError)
    monkeypatch.setitem(sys.modules, "my_company", types.ModuleType("my_company"))
    monkeypatch.setitem(sys.modules, "my_company.client", client)
    module = types.ModuleType("my_company.crm")
    exec(compile(blocks(DOCUMENT, "python")[0], "crm.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "my_company.crm", module)


def test_the_settings_that_it_shows_are_settings(tmp_path: Path) -> None:
    shown = loaded(tmp_path, blocks(DOCUMENT, "toml")[0])
    assert [t.name for t in shown.targets["create_order"]] == [None, "warehouse"]
    for _, targets in shown.target_tables():
        for target in targets:
            assert make_target(target).idempotency == target.idempotency


def test_the_webhooks_body_is_the_one_that_it_shows() -> None:
    message = MessageReceived(
        message_id="wamid.1", key="k", lead_id="+4915112345678", business_id="acme-foods", tenant_id="acme",
        intent="ORDER_REQUEST", confidence=0.9, payload="{}", entities={"product": "flour"},
        text="Three bags of flour, please",
    )  # fmt: skip
    key = "acme-foods/lead-1/m1/0.notify_sales"
    call = ActionCall("s", key, 1, "create_order", "t", message, "We are on it.", received=T0)
    body = body_of(request_of(discover()["create_order"], call))
    assert json.loads(body) == json.loads(blocks(DOCUMENT, "json")[0])


@pytest.mark.usefixtures("crm")
def test_the_target_of_ones_own_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = loaded(tmp_path, blocks(DOCUMENT, "toml")[1]).targets["create_order"]
    target: Any = make_target(settings)
    assert settings.idempotency == target.idempotency == "keyed"
    assert target.call(request()) == Misconfigured("the variable CRM_TOKEN holds no secret")
    monkeypatch.setenv("CRM_TOKEN", "wrong")
    assert target.call(request()) == Misconfigured("the CRM takes no such token")
    monkeypatch.setenv("CRM_TOKEN", "right")
    assert target.call(request()) == Done({"deal": "d-1"})
    assert target.call(request(attempt=2)) == Done({"deal": "d-1"})
    assert target.call(request(text="busy")) == Failed("busy", 3_000_000, throttled=True)
    assert target.call(request(text="no")) == FailedForGood("no such product")
    assert target.call(undo_of(request(), {"deal": "d-1"})) == Done()
    assert target._target._crm.deals == {}


def test_its_table_of_kinds_names_each_kind_with_its_class() -> None:
    text = (Path(__file__).parent.parent / DOCUMENT).read_text(encoding="utf-8")
    for kind in (ts.Webhook, ts.Slack, ts.Email):
        assert f"| `{kind.__struct_config__.tag}` | *{kind.idempotency}* |" in text
