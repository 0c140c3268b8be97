"""The targets' own ledgers against the events: a fifth of all calls goes wrong, and the runner is killed meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.tokens import derived_id
from tests.support.nats import running_server
from tests.support.system_kills import Kill, Killer
from tests.support.system_leadline import Leadline, leadline
from tests.support.system_oracle import CORPUS, corpus_lines
from tests.support.system_sql import events, view
from tests.support.system_wire import order
from tests.support.target_servers import WRONGS, OrderSystem, TargetServer, WebhookReceiver

#: Messages of the corpus that are used: 0 is all of them. Seed 0 takes a new one each time.
MESSAGES = int(os.environ.get("LEADLINE_TEST_LEDGER_MESSAGES", "400"))
SEED = int(os.environ.get("LEADLINE_TEST_LEDGER_SEED", "0")) or secrets.randbelow(1_000_000)
KILLS = 5
OWN_ORDERS = 80
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

#: Calls enough in each moment that a kill falls upon some, and waits that a test need not sit out.
SETTINGS = """
[retry]
delays_seconds = [0.05, 0.1, 0.2]
retry_after_cap_seconds = 0.2
[breaker]
open_seconds = 0.2
open_cap_seconds = 0.5
[journal]
max_appends = 50
[intake]
checkpoint_seconds = 0.2

[targets.create_order]
kind = "rest"
idempotency = "keyed"
url = "{orders}/orders"
body = {{ lead = "${{lead_id}}" }}
remote = {{ id = "order.id" }}
undo = {{ url = "{orders}/orders/${{remote.id}}" }}
timeout_seconds = 2
[targets.notify_sales]
kind = "webhook"
url = "{hook}/hook"
secrets = [{{ file = "secret" }}]
timeout_seconds = 2
workers = 8
"""

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}")


@pytest.fixture
def orders() -> Iterator[TargetServer]:
    with TargetServer(OrderSystem(), share=0.2, wrongs=(*WRONGS, "422"), seed=SEED) as server:
        yield server


@pytest.fixture
def hook() -> Iterator[TargetServer]:
    with TargetServer(
        WebhookReceiver(SECRET), share=0.2, wrongs=(*WRONGS, "422", "422", "422"), seed=SEED + 1
    ) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ledgers_and_events_say_the_same(tmp_path: Path, orders: TargetServer, hook: TargetServer) -> None:
    lines = corpus_lines()[: MESSAGES or None]
    lines += orders_of_our_own(lines)
    settings = (CORPUS / "leadline.toml").read_text() + SETTINGS.format(orders=orders.url, hook=hook.url)
    with (
        running_server(tmp_path / "nats") as server,
        leadline(tmp_path / "house", url=server.url, settings=settings) as house,
    ):
        (house.folder / "secret").write_text(SECRET)
        killer = Killer(house, server, house.run)
        house.publish(lines)
        killer.carry_out([Kill(len(lines) * 5 * n // (KILLS + 1), "runner") for n in range(1, KILLS + 1)])
        house.wait_idle(600)
        say(f"seed {SEED}: {len(lines)} messages, killed at events {killer.fell_at}")
        assert_each_effect_once(orders, hook)
        assert_each_event_has_its_effect(house, orders, hook)
        assert_what_stands_is_accounted_for(house, orders)
        assert house.cli("rebuild", "--verify").code == 0


def orders_of_our_own(lines: list[bytes]) -> list[bytes]:
    """Few of the corpus are orders that are carried out, and only these have something to undo."""
    business = json.loads(lines[0])["business_id"]
    return [order(f"own-{number}", f"+49 9/{number % 12}", business) for number in range(OWN_ORDERS)]


def assert_each_effect_once(orders: TargetServer, hook: TargetServer) -> None:
    """A call is repeated under its own key, and takes effect the first time."""
    for server, what in ((orders, "created"), (orders, "cancelled"), (hook, None)):
        effects = server.app.ledger.effects(what)
        assert effects, what
        assert set(effects.values()) == {1}, [key for key, times in effects.items() if times > 1]
    repeated = sum(line.repeated for line in (*orders.app.ledger.lines, *hook.app.ledger.lines))
    say(f"{len(orders.requests) + len(hook.requests)} requests, {repeated} repeated after an effect")
    assert repeated


def assert_each_event_has_its_effect(house: Leadline, orders: TargetServer, hook: TargetServer) -> None:
    executed = [event["key"] for event in events(house.data, "action_executed.v1")]
    undone = [event["key"] for event in events(house.data, "action_compensated.v1")]
    assert len(set(executed)) == len(executed)
    by_action = {"create_order": (orders, "created", "cancelled"), "notify_sales": (hook, None, None)}
    for action, (server, done, cancelled) in by_action.items():
        keys = {derived_id(key) for key in executed if key.split("#")[0].endswith(f".{action}")}
        undo = {derived_id(key) for key in undone if key.split("#")[0].endswith(f".{action}/undo")}
        assert keys
        assert keys <= set(server.app.ledger.effects(done))
        assert undo <= set(server.app.ledger.effects(cancelled))
        if action == "create_order":
            assert undo
            say(f"{len(keys)} orders, {len(undo)} of them undone")


def assert_what_stands_is_accounted_for(house: Leadline, orders: TargetServer) -> None:
    """An order stands because its action does, or because nobody could rule it out, and then a person reads so."""
    app = orders.app
    assert isinstance(app, OrderSystem)
    placed = {e["key"] for e in events(house.data, "action_executed.v1") if e["action"] == "create_order"}
    undone = {e["key"].removesuffix("/undo") for e in events(house.data, "action_compensated.v1")}
    unsure = {e["key"].removesuffix("/undo") for e in events(house.data, "compensation_failed.v1")}
    failed = {event["key"] for event in events(house.data, "action_failed.v1") if event.get("maybe_done")}
    stands = {number: app.key_of(number) for number in app.standing()}
    wanted = {derived_id(key) for key in placed - undone - unsure}
    doubtful = {derived_id(key) for key in failed | unsure}
    assert wanted <= set(stands.values())
    assert set(stands.values()) <= wanted | doubtful
    letters = view(house.data, "dead_letter_queue")
    assert sum("may have happened" in row["error_message"] for row in letters) >= len(failed)
    assert sum(row["category"] == "compensation_failed" for row in letters) == len(unsure)


def say(text: str) -> None:
    """What pytest shows beside a failure, and with `-s`."""
    sys.stdout.write(f"\n{text}\n")
