"""What the rejects keep in memory: little, whatever comes, and enough to answer after any restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from actors import recording, rejects
from domain import events as ev
from domain.commands import (
    AmendDeadLetter,
    DiscardDeadLetter,
    RetryDeadLetter,
)
from domain.rejects import RULES, RejectsState
from domain.snapshots import Snapshots
from tests.support.actors_people import obey
from tests.support.actors_system import ActorSystem, Boot, Log, booting, rejects_of
from tests.support.eventually import eventually

FEW = 10
GOOD = (
    '{"message_id":"m%d","lead_id":"lead-1","business_id":"acme-foods",'
    '"intent":"PRICING_INQUIRY","confidence":0.9}'
)


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    """Everything is looked through, and kept, after a few events."""
    monkeypatch.setattr(recording, "LONG", FEW)
    monkeypatch.setattr(rejects, "FORGET_AT", FEW)
    with booting(tmp_path) as start:
        yield start


def state_of(system: ActorSystem) -> RejectsState:
    return next(actor.state for actor in system.rejects if actor.actor_urn == rejects_of())


def rejected(system: ActorSystem) -> list[str]:
    found = [r.event for r in system.history(rejects_of())]
    return [event.dead_letter_id for event in found if isinstance(event, ev.MessageRejected)]


def flood(system: ActorSystem, log: Log, times: int) -> None:
    """Bent messages, ten at a time, with a checkpoint after each ten."""
    for _ in range(times):
        for _ in range(10):
            log.raw(b"not json")
        system.read()
        system.settle()
        system.checkpoint()


def test_entries_are_forgotten_once_a_position_has_passed_them_and_never_recorded_twice(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    flood(system, log, 10)
    assert len(state_of(system).sequences) <= 3 * FEW
    for _ in range(15):  # these are read again: no position has passed them
        log.raw(b"not json")
    system.read()
    system.settle()
    system.crash()
    log.raw(b"not json")
    again = boot(log)
    again.settle()
    assert len(rejected(again)) == len(set(rejected(again))) == 116
    assert again.position_is_complete()


def snapshot_version(system: ActorSystem) -> int:
    rows = system.recorder.rows(
        "SELECT originator_version FROM snapshots WHERE originator_id = ? AND shape = ?",
        (rejects_of(), Snapshots(RejectsState, RULES).shape),
    )
    return int(rows[0][0]) if rows else 0


@pytest.mark.parametrize(
    "spoilt", ["", "RejectsState.1.of an earlier release"], ids=["snapshot", "old shape"]
)
def test_commands_find_their_reject_after_a_restart_whatever_it_started_from(
    boot: Boot, tmp_path: Path, spoilt: str
) -> None:
    log = Log()
    system = boot(log)
    flood(system, log, 2)
    first, second, third = rejected(system)[:3]
    assert obey(
        system,
        AmendDeadLetter(command_id="c1", by="ann", dead_letter_id=first, changes={"payload": GOOD % 1}),
    ).done
    discarded = DiscardDeadLetter(command_id="c2", by="ann", dead_letter_id=second)
    told = obey(system, discarded)
    refused = obey(system, RetryDeadLetter(command_id="c3", by="ann", dead_letter_id=third))
    flood(system, log, 4)
    eventually(lambda: snapshot_version(system) >= 5 * FEW)
    system.crash()
    if spoilt:
        with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
            connection.execute("UPDATE snapshots SET shape = ?", (spoilt,))

    system = boot(log)
    assert obey(system, discarded) == told
    assert obey(system, RetryDeadLetter(command_id="c3", by="ann", dead_letter_id=third)) == refused
    assert (
        "no open reject"
        in obey(system, RetryDeadLetter(command_id="c4", by="ann", dead_letter_id=second)).reason
    )
    retry = RetryDeadLetter(command_id="c5", by="ann", dead_letter_id=first)
    assert obey(system, retry).done
    assert system.kinds()[-1] == "MessageCompleted"
    assert (
        "on its way" in obey(system, RetryDeadLetter(command_id="c6", by="ann", dead_letter_id=first)).reason
    )
    assert obey(system, retry).done
    assert system.kinds().count("MessageCompleted") == 1
    assert system.position_is_complete()
