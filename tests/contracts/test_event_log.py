"""The port `EventLog`: the store on SQLite, and the list that the projections' tests use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import pytest

from actors.event_store import PART, EventStore
from actors.journal import open_recorder
from domain import codec
from domain.errors import UnknownEventError
from domain.events import LeadFlagged, LeadUnflagged, Recorded
from domain.ports import EventLog
from tests.support.actors_outside import T0
from tests.support.projections_log import MemoryLog


class Opened(Protocol):
    """A log, and what a test does to it from outside."""

    log: EventLog

    def append(self, events: Sequence[Recorded]) -> None: ...

    def corrupt(self, position: int) -> None: ...


class OnSqlite:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._recorder = open_recorder(path)
        self.log: EventLog = EventStore(self._recorder)

    def append(self, events: Sequence[Recorded]) -> None:
        self._recorder.insert_rows([(r.stream, r.version, *codec.encode(r)) for r in events])

    def corrupt(self, position: int) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE stored_events SET state = '{' WHERE rowid = ?", (position,))


class InMemory:
    def __init__(self) -> None:
        self.memory = MemoryLog()
        self.log: EventLog = self.memory

    def append(self, events: Sequence[Recorded]) -> None:
        self.memory.append(*events)

    def corrupt(self, position: int) -> None:
        self.memory.corrupt.add(position)


@pytest.fixture(params=["sqlite", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    one: Opened = InMemory() if request.param == "memory" else OnSqlite(tmp_path / "events.db")
    yield one
    one.log.close()


def event(number: int, stream: str = "lead:b:1", version: int | None = None) -> Recorded:
    return Recorded(stream, version or number, LeadFlagged(f"m{number}", "k"), f"id-{number}", T0)


def ten(opened: Opened) -> EventLog:
    opened.append([event(n) for n in range(1, 11)])
    return opened.log


def test_events_are_read_in_the_order_of_their_commit_with_their_positions(opened: Opened) -> None:
    log = ten(opened)
    assert [(r.position, r.event_id) for r in log.read(0, 100)] == [(n, f"id-{n}") for n in range(1, 11)]
    assert [r.position for r in log.read(4, 3)] == [5, 6, 7]


def test_an_event_comes_back_as_it_was_recorded(opened: Opened) -> None:
    [read] = ten(opened).read(2, 1)
    assert (read.stream, read.version, read.event, read.at) == ("lead:b:1", 3, LeadFlagged("m3", "k"), T0)


def test_beyond_the_end_there_is_nothing(opened: Opened) -> None:
    assert opened.log.last_position() == 0
    assert list(opened.log.read(0, 10)) == []
    log = ten(opened)
    assert log.last_position() == 10
    assert list(log.read(10, 10)) == []


def test_an_event_that_cannot_be_read_comes_after_all_before_it_and_is_named(opened: Opened) -> None:
    log = ten(opened)
    opened.corrupt(4)
    assert [r.position for r in log.read(0, 100)] == [1, 2, 3]
    with pytest.raises(UnknownEventError, match=r"event 4 .*version 4 of lead:b:1"):
        log.read(3, 100)
    assert [r.position for r in log.read(4, 100)] == [5, 6, 7, 8, 9, 10]


def test_of_some_kinds_only_those_are_read_and_the_last_one_to_say_how_far_it_is(opened: Opened) -> None:
    flags = [LeadFlagged(f"m{n}", "k") for n in range(1, 11)]
    other = {3: LeadUnflagged("m3", "k"), 7: LeadUnflagged("m7", "k")}
    opened.append([Recorded("lead:b:1", n, other.get(n, flags[n - 1]), f"id-{n}", T0) for n in range(1, 11)])
    log = opened.log
    kinds = {LeadUnflagged}
    assert [r.position for r in log.read(0, 100, kinds)] == [3, 7, 10]
    assert [r.position for r in log.read(0, 5, kinds)] == [3, 5]
    assert [r.position for r in log.read(5, 2, kinds)] == [7]
    assert [r.position for r in log.read(7, 2, kinds)] == [9]
    assert list(log.read(10, 5, kinds)) == []


def test_what_cannot_be_read_stops_only_those_who_read_its_kind(opened: Opened) -> None:
    log = ten(opened)
    opened.corrupt(4)
    assert [r.position for r in log.read(0, 100, {LeadUnflagged})] == [10]
    assert [r.position for r in log.read(0, 100, {LeadFlagged})] == [1, 2, 3]
    with pytest.raises(UnknownEventError, match="event 4"):
        log.read(3, 100, {LeadFlagged})


def test_the_id_of_the_event_at_a_position_is_known(opened: Opened) -> None:
    log = ten(opened)
    assert log.event_id_at(7) == "id-7"
    assert log.event_id_at(11) is None
    assert log.event_id_at(0) is None


def test_a_stream_is_read_from_its_beginning_and_alone(opened: Opened) -> None:
    opened.append([event(1), event(2, "lead:b:2", 1), event(3, version=2)])
    assert [(r.version, r.event_id) for r in opened.log.stream("lead:b:1")] == [(1, "id-1"), (2, "id-3")]
    assert list(opened.log.stream("lead:b:nobody")) == []


def test_a_stream_is_read_backwards_as_far_as_it_is_taken(opened: Opened) -> None:
    count = 2 * PART + 5
    opened.append([event(n) for n in range(1, count + 1)])
    opened.append([event(count + 1, "lead:b:2", 1)])
    log = opened.log
    assert [r.version for r in log.backwards("lead:b:1")] == list(range(count, 0, -1))
    assert [r.version for r in log.backwards("lead:b:1", PART + 2)] == list(range(PART + 1, 0, -1))
    assert [r.position for r in log.backwards("lead:b:2")] == [count + 1]
    assert list(log.backwards("lead:b:1", 1)) == []
    assert list(log.backwards("lead:b:nobody")) == []
    opened.corrupt(count - 2)
    last = iter(log.backwards("lead:b:1"))
    assert [next(last).version, next(last).version] == [count, count - 1]
    with pytest.raises(UnknownEventError, match=f"event {count - 2} "):
        next(last)


def test_a_store_has_one_id_for_ever(opened: Opened) -> None:
    before = opened.log.store_id()
    ten(opened)
    assert opened.log.store_id() == before != ""


def test_two_stores_have_two_ids(tmp_path: Path) -> None:
    one, other = OnSqlite(tmp_path / "one.db"), OnSqlite(tmp_path / "other.db")
    assert one.log.store_id() != other.log.store_id()
    again = EventStore.open(tmp_path / "one.db")
    assert again.store_id() == one.log.store_id()
    for log in (one.log, other.log, again):
        log.close()
