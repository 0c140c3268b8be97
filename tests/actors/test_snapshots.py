"""Long streams: what a lead that wakes reads, and what becomes of a snapshot that is no good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import recording
from actors.lead import LeadActor
from domain import lead
from domain.lead import LeadState
from domain.snapshots import Snapshots
from tests.support.actors_outside import HeldTarget
from tests.support.actors_system import ActorSystem, Boot, Log, booting, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()
#: Events of a stream above which it is kept: two messages make ten.
FEW = 10


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    monkeypatch.setattr(recording, "LONG", FEW)
    with booting(tmp_path) as start:
        yield start


def messages(log: Log, first: int, last: int) -> None:
    for number in range(first, last):
        log.message(f"m{number}")


def one_after_the_other(system: ActorSystem, log: Log, first: int, last: int) -> None:
    """Each in an append of its own."""
    for number in range(first, last):
        log.message(f"m{number}")
        system.read()
        system.settle()


def snapshot_of(system: ActorSystem) -> tuple[int, str, bytes] | None:
    rows = system.recorder.rows(
        "SELECT originator_version, shape, state FROM snapshots WHERE originator_id = ?", (LEAD,)
    )
    return (rows[0][0], rows[0][1], bytes(rows[0][2])) if rows else None


def kept(system: ActorSystem) -> tuple[int, str, bytes]:
    """The snapshot, once the journal has written it."""
    eventually(lambda: snapshot_of(system) is not None)
    found = snapshot_of(system)
    assert found is not None
    return found


def spoil(folder: Path, **columns: Any) -> None:
    with closing(sqlite3.connect(folder / "events.db")) as connection, connection:
        for name, value in columns.items():
            connection.execute(f"UPDATE snapshots SET {name} = ? WHERE originator_id = ?", (value, LEAD))


def replayed(system: ActorSystem) -> LeadState:
    """The state by all of the lead's events."""
    state = LeadState(LEAD)
    for recorded in system.history(LEAD):
        lead.evolve(state, recorded)
    return state


def woken(system: ActorSystem) -> tuple[LeadState, list[int]]:
    """The state of a lead that has just woken, and the versions after which it read."""
    read: list[int] = []
    parts = system.directory._parts
    assert parts is not None
    load = parts.recording.load

    def counting(stream: str, *, after: int = 0, limit: int = -1) -> Any:
        read.append(after)
        return load(stream, after=after, limit=limit)

    spying = msgspec.structs.replace(parts, recording=msgspec.structs.replace(parts.recording, load=counting))
    actor = LeadActor(LEAD, spying)
    actor.load()
    return actor.kept_state(), read


def test_a_lead_with_few_events_is_not_kept(boot: Boot) -> None:
    log = Log()
    messages(log, 0, 1)
    system = boot(log)
    system.settle()
    system.checkpoint()  # the journal is through with all it was told before
    assert snapshot_of(system) is None


def test_a_long_lead_wakes_from_its_snapshot_and_the_events_after_it(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    one_after_the_other(system, log, 0, 5)
    version, shape, _ = kept(system)
    assert version >= FEW
    assert shape == Snapshots(LeadState, lead.RULES).shape
    state, read = woken(system)
    assert state == replayed(system)
    assert read[:2] == [0, version]


def test_a_snapshot_takes_the_place_of_the_one_before(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    one_after_the_other(system, log, 0, 4)
    first, _, _ = kept(system)
    one_after_the_other(system, log, 4, 8)
    eventually(lambda: kept(system)[0] > first)
    assert system.recorder.rows("SELECT COUNT(*) FROM snapshots WHERE originator_id = ?", (LEAD,)) == [(1,)]


@pytest.mark.parametrize(
    "columns",
    [
        {"state": b"\xff no state"},
        {"state": b"{}"},
        {"shape": "LeadState.0.of another release"},
        {"originator_version": 10_000},
    ],
    ids=["damaged", "another document", "another shape", "of events that are not there"],
)
def test_what_is_no_good_is_not_read(boot: Boot, tmp_path: Path, columns: dict[str, Any]) -> None:
    log = Log()
    system = boot(log)
    one_after_the_other(system, log, 0, 5)
    kept(system)
    spoil(tmp_path, **columns)
    state, read = woken(system)
    assert state == replayed(system)
    assert read[:2] == [0, FEW]


def test_what_another_writer_was_faster_with_is_in_no_snapshot(boot: Boot) -> None:
    log = Log()
    stale = boot(log)
    one_after_the_other(stale, log, 0, 1)
    other = boot(log)
    one_after_the_other(other, log, 1, 3)
    stale.clock.pass_time(60)  # type: ignore[attr-defined]
    messages(log, 3, 6)
    stale.read()
    stale.settle()
    stale.checkpoint()
    version, _, encoded = kept(stale)
    state = LeadState(LEAD)
    for recorded in stale.history(LEAD)[:version]:
        lead.evolve(state, recorded)
    assert Snapshots(LeadState, lead.RULES).decode(encoded) == state


def test_what_a_lead_knew_it_knows_after_a_restart(boot: Boot) -> None:
    """A duplicate from before the snapshot is one, and a call that was at work at its time is found again."""
    log = Log()
    target = HeldTarget("keyed")
    system = boot(log, {"notify_sales": target})
    one_after_the_other(system, log, 0, 5)
    target.hold()
    messages(log, 5, 6)
    system.read()
    eventually(lambda: len(target.requests) == 6)
    messages(log, 6, 10)  # they wait behind the call, and the state is kept with it
    for events in range(35, 39):
        system.read(limit=1)
        eventually(lambda: len(system.history(LEAD)) == events)  # noqa: B023  # called in its own round
    eventually(lambda: kept(system)[0] > 33)
    system.crash()
    target.release()

    system = boot(log, {"notify_sales": target})
    messages(log, 0, 1)
    system.read()
    system.settle()
    kinds = system.kinds()
    assert kinds.count("ActionInterrupted") == 1
    assert kinds.count("DuplicateDetected") == 1
    assert kinds.count("MessageCompleted") == 10
    keys = [request.key for request in target.requests]
    assert len(set(keys)) == 10
