"""An event store as version 0.1.0 left it, read and gone on with by this one.

`golden/store.v0.1.0.jsonl` is never written anew: a row is the stream, the version in it, the
stored name, and the JSON. It was left by a killed process: a call is at work, and a message waits behind it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.event_store import EventStore
from actors.journal import open_recorder
from domain import codec, lead
from domain.commands import ResolveDeadLetter, RetryDeadLetter
from domain.events import DuplicateDetected, MessageCompleted, MessageDeadLettered, Recorded
from domain.lead import LeadState
from projections.rebuild import rebuild, verify
from tests.support.actors_outside import HeldTarget
from tests.support.actors_system import Boot, Log, booting, stream_of

STORE = Path(__file__).parent / "golden" / "store.v0.1.0.jsonl"
ROWS: list[tuple[str, int, str, str]] = [
    tuple(json.loads(line)) for line in STORE.read_text(encoding="utf-8").splitlines()
]
#: Who has a call at work, and a message behind it.
AT_WORK = "+49 170/9"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    recorder = open_recorder(tmp_path / "events.db")
    recorder.insert_rows([(s, v, name, state.encode()) for s, v, name, state in ROWS])
    opened = EventStore(recorder)
    yield opened
    opened.close()


@pytest.fixture
def boot(store: EventStore, tmp_path: Path) -> Iterator[Boot]:
    store.close()
    with booting(tmp_path) as start:
        yield start


def counted(path: Path) -> dict[str, Any]:
    """What stands in the views, by what people ask for first."""
    asked = {
        "tasks": "SELECT status, COUNT(*) FROM tasks GROUP BY 1",
        "dead_letter_queue": "SELECT category || ' ' || status, COUNT(*) FROM dead_letter_queue GROUP BY 1",
        "processed_messages": "SELECT disposition, COUNT(*) FROM processed_messages GROUP BY 1",
        "breakers": "SELECT state, COUNT(*) FROM breakers GROUP BY 1",
        "unfinished": "SELECT waiting_for, COUNT(*) FROM unfinished GROUP BY 1",
    }
    with closing(sqlite3.connect(path)) as connection:
        return {view: dict(connection.execute(sql).fetchall()) for view, sql in asked.items()}


def test_every_event_is_read(store: EventStore) -> None:
    events = store.read(0, 10_000)
    assert len(events) == len(ROWS)
    assert [codec.encode(recorded)[0] for recorded in events] == [row[2] for row in ROWS]


def test_every_lead_goes_on_from_its_history(store: EventStore) -> None:
    leads = {row[0] for row in ROWS if row[0].startswith("lead:")}
    unfinished = []
    for stream in leads:
        state = LeadState(stream)
        for recorded in store.stream(stream):
            lead.evolve(state, recorded)
        if state.queue:
            unfinished.append(stream)
            assert len(state.queue) == 2
    assert unfinished == [stream_of(AT_WORK)]


AS_IT_WAS = {
    "tasks": {"cancelled": 4, "completed": 2, "in_progress": 1, "pending": 19},
    "dead_letter_queue": {
        "action_failed discarded": 2,
        "action_failed resolved": 2,
        "lead_stopped resolved": 2,
        "outcome_unknown failed": 1,
        "outcome_unknown resolved": 1,
        "rejected resolved": 2,
    },
    "processed_messages": {"completed": 19, "dead_lettered": 5, "in_progress": 2, "rejected": 2},
    "breakers": {"closed": 2},
    "unfinished": {"its turn": 1, "outcome of notify_sales": 1},
}


def test_the_views_come_out_as_they_were(store: EventStore, tmp_path: Path) -> None:
    rebuild(store, tmp_path / "views.db")
    assert counted(tmp_path / "views.db") == AS_IT_WAS
    assert not verify(store, tmp_path / "views.db").differences


def test_the_views_are_the_same_by_way_of_an_upcaster(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the intent's event had once had another name and another field."""

    def upcast(event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "intent_detected.v1", {**event, "intent": event["guess"]}

    monkeypatch.setitem(codec.UPCASTERS, "intent_guessed.v1", upcast)
    rebuild(store, tmp_path / "views.db")
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute(
            "UPDATE stored_events SET topic = 'intent_guessed.v1',"
            " state = CAST(replace(CAST(state AS TEXT), '\"intent\":', '\"guess\":') AS BLOB)"
            " WHERE topic = 'intent_detected.v1'"
        )
    assert not verify(store, tmp_path / "views.db").differences
    assert verify(store, tmp_path / "views.db").rows > 50


def test_a_runner_goes_on_where_the_old_one_was_killed(boot: Boot) -> None:
    log = Log()
    log.entries = [log.raw(b"", AT_WORK)] * 500  # what the old one has taken
    target = HeldTarget("keyed")
    system = boot(log, {"notify_sales": target}, read=False)
    system._read_to = len(log.entries)
    system.directory.wake([stream_of(AT_WORK)])
    system.settle()
    kinds = system.kinds(AT_WORK)
    assert "ActionInterrupted" in kinds
    assert kinds.count("MessageCompleted") == 2
    at_work = [request for request in target.requests if "wamid=2Eatwork" in request.key]
    assert [request.attempt for request in at_work] == [2]


def test_what_the_old_one_knew_is_known(boot: Boot) -> None:
    """A message id is a duplicate, and a dead letter can be settled and retried to success."""
    log = Log()
    log.entries = [log.raw(b"", AT_WORK)] * 500
    system = boot(log, {"create_order": HeldTarget("keyed")}, read=False)
    system._read_to = len(log.entries)
    [letter, lead_id] = _a_dead_letter(system.everything())
    log.message("wamid.m0+=", "+49 170/0")
    log.command(
        ResolveDeadLetter(command_id="n1", by="ann", dead_letter_id=letter, outcome="undone"), lead_id
    )
    log.command(RetryDeadLetter(command_id="n2", by="ann", dead_letter_id=letter), lead_id)
    system.read()
    system.settle()
    assert isinstance(system.events("+49 170/0")[-1], DuplicateDetected)
    completed = [event for event in system.events(lead_id) if isinstance(event, MessageCompleted)]
    assert completed[-1].dead_letter_id == letter


def _a_dead_letter(history: list[Recorded]) -> tuple[str, str]:
    """(id, lead id) of the one that nobody has touched: what happened is unknown."""
    letters = [r.event for r in history if isinstance(r.event, MessageDeadLettered)]
    gone = {
        getattr(r.event, "dead_letter_id", None)
        for r in history
        if not isinstance(r.event, MessageDeadLettered)
    }
    return next((e.dead_letter_id, e.lead_id) for e in letters if e.dead_letter_id not in gone)
