"""Which leads have unfinished work, told from the events alone, even where some cannot be read."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import runner
from actors.recovery import unfinished_leads
from domain import events as ev
from domain.commands import RetryDeadLetter
from domain.errors import LeadlineError
from projections.store import ViewsPosition
from settings import Settings
from tests.support.actors_outside import HeldTarget
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually


def corrupt(system: ActorSystem, stream: str, topic: str) -> None:
    """Flip a byte of one event's JSON."""
    with closing(sqlite3.connect(system.folder / "events.db")) as connection, connection:
        connection.execute(
            "UPDATE stored_events SET state = '{' || substr(state, 3) WHERE originator_id = ? AND topic = ?",
            (stream, topic),
        )


def unfinished_after_some_work(boot: Boot) -> ActorSystem:
    """lead-1 is done, lead-2's call is out, lead-3 waits for a retry."""
    log = Log()
    sales, orders = HeldTarget("keyed", ("fail",)), HeldTarget("keyed")
    orders.hold()
    log.message("m1", "lead-1", intent="UNKNOWN")
    log.order("m1", "lead-2")
    log.message("m1", "lead-3")
    system = boot(log, {"notify_sales": sales, "create_order": orders})
    system.settle()
    eventually(lambda: len(orders.requests) == 1)
    return system


def test_a_lead_with_a_message_at_work_or_waiting_is_unfinished(boot: Boot) -> None:
    system = unfinished_after_some_work(boot)
    assert unfinished_leads(system.store) == {stream_of("lead-2"), stream_of("lead-3")}


@pytest.mark.parametrize("topic", ["message_completed.v1", "intent_detected.v1"])
def test_an_event_that_cannot_be_read_hides_no_other_leads_work(boot: Boot, topic: str) -> None:
    system = unfinished_after_some_work(boot)
    corrupt(system, stream_of("lead-1"), topic)
    assert unfinished_leads(system.store) >= {stream_of("lead-2"), stream_of("lead-3")}


def test_several_events_in_a_row_that_cannot_be_read_are_passed_over(boot: Boot) -> None:
    system = unfinished_after_some_work(boot)
    for topic in ("message_received.v1", "intent_detected.v1", "actions_planned.v1", "message_completed.v1"):
        corrupt(system, stream_of("lead-1"), topic)
    assert unfinished_leads(system.store) == {stream_of("lead-2"), stream_of("lead-3")}


def test_a_dead_letter_that_is_retried_is_unfinished_again(boot: Boot) -> None:
    log, sales = Log(), HeldTarget("keyed", ("fail_for_good",))
    log.message("m1")
    system = boot(log, {"notify_sales": sales})
    system.settle()
    assert unfinished_leads(system.store) == set()
    letter = system.events()[-1]
    assert isinstance(letter, ev.MessageDeadLettered)
    sales.hold()
    log.command(RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=letter.dead_letter_id))
    system.read()
    eventually(lambda: len(sales.requests) == 2)
    assert unfinished_leads(system.store) == {stream_of()}


def test_recovery_wakes_what_a_crash_left_and_it_ends(boot: Boot) -> None:
    system = unfinished_after_some_work(boot)
    targets = dict(system.outside)
    system.crash()
    for target in targets.values():
        assert isinstance(target, HeldTarget)
        target.release()
    corrupt(system, stream_of("lead-1"), "message_completed.v1")
    targets["notify_sales"] = HeldTarget("keyed")
    again = boot(system.log, targets)
    again.directory.wake(unfinished_leads(again.store))
    again.settle()
    again.fire(stream_of("lead-3"))
    again.settle()
    assert unfinished_leads(again.store) <= {stream_of("lead-1")}
    assert again.kinds("lead-2")[-1] == "MessageCompleted"
    assert again.kinds("lead-3")[-1] == "MessageCompleted"


def test_recovery_waits_for_views_that_vanish_while_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed beneath it, they are built anew: no reason to end."""
    woken: list[str] = []
    looks: list[str] = []

    class Vanishing:
        def __init__(self, _file: Path) -> None: ...

        def position(self) -> ViewsPosition:
            return ViewsPosition(1, "store", 7)

        def unfinished(self) -> list[dict[str, str]]:
            looks.append("look")
            if len(looks) == 1:
                raise LeadlineError("the views cannot be read: disk I/O error")
            return [{"business_id": "acme", "lead_id": "+1"}]

    monkeypatch.setattr(runner, "Views", Vanishing)
    system: Any = SimpleNamespace(
        store=SimpleNamespace(last_position=lambda: 7),
        settings=Settings(),
        directory=SimpleNamespace(wake=woken.extend),
        _over=threading.Event(),
    )
    runner.System._recover(system)
    assert woken == ["lead:acme:=2B1"]
