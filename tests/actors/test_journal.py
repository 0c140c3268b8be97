"""The journal on a real SQLite file: group commit, second writers, busy and full disks, rows that cannot be written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from actors.event_store import EventStore
from actors.journal import EventRecorder, JournalActor, JournalHandle, open_recorder
from actors.positions import Positions
from actors.protocol import Append, AppendResult, Committed, Conflict, Snapshot, Unwritable
from domain import codec
from domain import events as ev
from domain.events import Place
from tests.support.actors_outside import T0
from tests.support.eventually import eventually

STREAM = "lead:acme-foods:lead-1"


class Desk:
    """A journal at work, what it answered, and which places it reported."""

    def __init__(self, path: Path, *, max_appends: int = 1000) -> None:
        self.path = path
        #: How many others are about to append.
        self.more_to_come: Callable[[], int] = int
        self.recorder: EventRecorder = open_recorder(path)
        self.store = EventStore(self.recorder)
        self.positions = Positions(16)
        self.positions.begin("now", [0] * 16)
        self.deaths: list[BaseException] = []
        self.answers: list[AppendResult] = []
        ref = JournalActor.start(
            self.recorder,
            self.positions,
            max_appends=max_appends,
            on_death=self.deaths.append,
            more_to_come=self._more_to_come,
        )
        actor = ref._actor_weakref()
        assert isinstance(actor, JournalActor)
        self.ref, self.actor, self.handle = ref, actor, JournalHandle(actor)

    def _more_to_come(self) -> int:
        return self.more_to_come()

    def append(self, stream: str = STREAM, version: int = 0, rows: int = 1, **fields: Any) -> Append:
        one = self.make(stream, version, rows, **fields)
        self.handle.append(one)
        return one

    def make(
        self, stream: str = STREAM, version: int = 0, rows: int = 1, who: str = "mine", **fields: Any
    ) -> Append:
        events = encoded(stream, version, rows, who)
        return Append(stream, version, events, self.answers.append, **{"append_id": 7, **fields})

    def answered(self, count: int) -> Sequence[AppendResult]:
        eventually(lambda: len(self.answers) >= count or bool(self.deaths))
        assert not self.deaths
        assert len(self.answers) == count
        return self.answers

    def versions(self, stream: str = STREAM) -> list[int]:
        return [recorded.version for recorded in self.store.stream(stream)]

    def pause(self) -> Callable[[], None]:
        """The journal's thread stays where it is until the result is called: what comes makes one batch."""
        gate = threading.Event()

        def stay() -> None:
            assert gate.wait(10)

        self.handle.checkpoint({}, stay)
        eventually(self.actor.actor_inbox.empty)
        return gate.set

    def close(self) -> None:
        self.ref.stop(block=False)
        eventually(lambda: not self.ref.is_alive() or self.actor.actor_stopped.is_set())
        self.store.close()


def encoded(stream: str, version: int, rows: int, who: str = "mine") -> tuple[tuple[str, bytes], ...]:
    return tuple(
        codec.encode(ev.Recorded(stream, n, ev.LeadFlagged(f"m{n}", "k"), f"{who}-{stream}-{n}", T0))
        for n in range(version + 1, version + rows + 1)
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path / "events.db")
    yield one
    one.close()


@pytest.fixture
def other(desk: Desk) -> Iterator[sqlite3.Connection]:
    """Another process's connection to the same file."""
    with closing(sqlite3.connect(desk.path, isolation_level=None)) as connection:
        yield connection


def write_as_another(
    other: sqlite3.Connection, stream: str = STREAM, version: int = 0, rows: int = 1
) -> None:
    for n, (name, state) in enumerate(encoded(stream, version, rows, "theirs"), version + 1):
        other.execute("INSERT INTO stored_events VALUES (?,?,?,?)", (stream, n, name, state))


def test_an_append_is_durable_before_it_is_answered(desk: Desk, other: sqlite3.Connection) -> None:
    desk.append(rows=3)
    assert desk.answered(1) == [Committed(STREAM, 3, 7)]
    assert other.execute("SELECT count(*) FROM stored_events").fetchone() == (3,)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with desk.recorder.datastore.transaction(commit=False) as cursor:
        cursor.execute("PRAGMA synchronous", ())
        assert cursor.fetchone()[0] == 2, "a commit that is not on disk is not a commit"


def test_what_waits_is_committed_together(desk: Desk) -> None:
    go_on = desk.pause()
    for n in range(500):
        desk.append(f"lead:b:{n}", rows=5)
    go_on()
    desk.answered(500)
    assert desk.actor.commits == 1
    assert desk.store.last_position() == 2500


def test_a_commit_takes_no_more_appends_than_the_settings_say(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "events.db", max_appends=10)
    go_on = desk.pause()
    for n in range(95):
        desk.append(f"lead:b:{n}")
    go_on()
    desk.answered(95)
    assert desk.actor.commits == 10
    desk.close()


def test_a_commit_waits_for_those_who_are_about_to_append(desk: Desk) -> None:
    looks = iter(range(1, 1000))

    def another_each_time_it_looks() -> int:
        look = next(looks)
        if look <= 3:
            desk.append(f"lead:b:{look}")
        return look <= 3

    desk.more_to_come = another_each_time_it_looks
    desk.append("lead:b:0")
    desk.answered(4)
    assert desk.actor.commits == 1


def test_a_commit_does_not_wait_for_ever_for_those_who_do_not_append(desk: Desk) -> None:
    desk.more_to_come = lambda: 1  # a lead whose code hangs
    for n in range(2):
        desk.append(f"lead:b:{n}")
        desk.answered(n + 1)


def test_places_are_reported_once_what_they_led_to_is_durable(desk: Desk, other: sqlite3.Connection) -> None:
    place = Place("now", 3, 1)
    desk.positions.took(place)
    other.execute("BEGIN IMMEDIATE")
    desk.append(places=(place,))
    eventually(desk.actor.actor_inbox.empty)
    assert desk.positions.in_hand() == 1
    assert desk.answers == []
    other.execute("ROLLBACK")
    desk.answered(1)
    assert desk.positions.in_hand() == 0


def test_a_clash_with_a_second_writer_is_told_and_reports_no_place(
    desk: Desk, other: sqlite3.Connection
) -> None:
    place = Place("now", 3, 1)
    desk.positions.took(place)
    write_as_another(other, rows=2)
    desk.append(rows=2, places=(place,))
    assert desk.answered(1) == [Conflict(STREAM, 7)]
    assert desk.positions.in_hand() == 1
    assert [r.event_id for r in desk.store.stream(STREAM)] == [f"theirs-{STREAM}-{n}" for n in (1, 2)]


def test_a_clash_of_one_stream_fails_no_other_of_its_batch(desk: Desk, other: sqlite3.Connection) -> None:
    write_as_another(other, "lead:b:7")
    go_on = desk.pause()
    for n in range(20):
        desk.append(f"lead:b:{n}")
    go_on()
    answers = {answer.stream: type(answer) for answer in desk.answered(20)}
    assert answers.pop("lead:b:7") is Conflict
    assert set(answers.values()) == {Committed}


def test_two_appends_of_one_stream_in_one_batch_are_settled_one_by_one(desk: Desk) -> None:
    go_on = desk.pause()
    desk.append(append_id=1)
    desk.append(rows=1, who="an older self", append_id=2)
    desk.append("lead:b:2", append_id=3)
    go_on()
    assert list(desk.answered(3)) == [
        Committed(STREAM, 1, 1),
        Conflict(STREAM, 2),
        Committed("lead:b:2", 1, 3),
    ]


def test_a_commit_whose_answer_was_lost_is_recognised_by_its_event_ids(desk: Desk) -> None:
    insert = desk.recorder.insert_rows
    lost: list[int] = []

    def loses_the_answer(*args: Any) -> Any:
        result = insert(*args)
        if not lost:
            lost.append(1)
            raise sqlite3.OperationalError("the connection was lost")
        return result

    desk.recorder.insert_rows = loses_the_answer  # type: ignore[method-assign,assignment]
    desk.append(rows=3)
    assert desk.answered(1) == [Committed(STREAM, 3, 7)]
    assert desk.versions() == [1, 2, 3]


def test_a_busy_store_delays_and_drops_nothing(desk: Desk, other: sqlite3.Connection) -> None:
    with desk.recorder.datastore.transaction(commit=True) as cursor:
        cursor.execute("PRAGMA busy_timeout = 1", ())
    other.execute("BEGIN IMMEDIATE")
    for n in range(5):
        desk.append(f"lead:b:{n}")
    desk.handle.checkpoint({"a": 5})
    eventually(lambda: desk.actor.stalled is not None)
    assert "locked" in str(desk.actor.stalled)
    assert desk.answers == []
    other.execute("ROLLBACK")
    desk.answered(5)
    eventually(lambda: desk.store.read_position("a") == 5)
    assert desk.actor.stalled is None


def test_a_full_disk_delays_and_drops_nothing(desk: Desk) -> None:
    def pages(limit: int) -> None:
        with desk.recorder.datastore.transaction(commit=False) as cursor:
            cursor.execute(f"PRAGMA max_page_count = {limit}", ())

    pages(1)
    for n in range(50):
        desk.append(f"lead:b:{n}", rows=50)
    eventually(lambda: desk.actor.stalled is not None)
    assert "full" in str(desk.actor.stalled)
    assert len(desk.answers) < 50
    insert = desk.recorder.insert_rows

    def on_a_larger_disk(*args: Any) -> Any:
        pages(1_000_000)
        return insert(*args)

    desk.recorder.insert_rows = on_a_larger_disk  # type: ignore[method-assign,assignment]
    desk.answered(50)
    assert {type(answer) for answer in desk.answers} == {Committed}
    assert desk.store.last_position() == 2500
    assert desk.actor.stalled is None


def test_a_row_that_cannot_be_written_stands_alone(desk: Desk) -> None:
    go_on = desk.pause()
    for n in range(30):
        desk.append(f"lead:b:{n}")
    bad = Append("lead:b:bad", 2**63, (("lead_flagged.v1", b"{}"),), desk.answers.append, append_id=9)
    desk.handle.append(bad)
    for n in range(30, 60):
        desk.append(f"lead:b:{n}")
    go_on()
    answers = desk.answered(61)
    assert [type(a) for a in answers if a.stream == "lead:b:bad"] == [Unwritable]
    assert [type(a) for a in answers if a.stream != "lead:b:bad"] == [Committed] * 60


def test_a_row_that_breaks_a_constraint_is_told_to_its_stream_and_nobody_else(desk: Desk) -> None:
    with desk.recorder.datastore.transaction(commit=True) as cursor:
        cursor.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON stored_events WHEN NEW.topic = 'refused' BEGIN"
            " SELECT RAISE(ABORT, 'refused'); END",
            (),
        )
    go_on = desk.pause()
    desk.append("lead:b:1")
    desk.handle.append(Append("lead:b:2", 0, (("refused", b'{"id":"x"}'),), desk.answers.append))
    desk.append("lead:b:3")
    go_on()
    answers = {answer.stream: type(answer) for answer in desk.answered(3)}
    assert answers == {"lead:b:1": Committed, "lead:b:2": Unwritable, "lead:b:3": Committed}


def test_a_store_that_is_damaged_ends_the_process_and_stops_no_lead(desk: Desk) -> None:
    def damaged(*_: Any) -> Any:
        raise sqlite3.DatabaseError("database disk image is malformed")

    desk.recorder.insert_rows = damaged  # type: ignore[method-assign,assignment]
    desk.append()
    eventually(lambda: bool(desk.deaths))
    assert desk.answers == []


def test_positions_are_written_apart_and_only_when_higher(desk: Desk) -> None:
    done: list[int] = []
    desk.handle.checkpoint({"a": 5, "b": 7}, lambda: done.append(1))
    desk.handle.checkpoint({"a": 5, "b": 6}, lambda: done.append(2))
    desk.handle.checkpoint({"a": 6}, lambda: done.append(3))
    eventually(lambda: done == [1, 2, 3])
    assert (desk.store.read_position("a"), desk.store.read_position("b")) == (6, 7)
    assert desk.store.last_position() == 0
    assert not desk.deaths


def test_a_position_that_a_second_writer_has_raised_is_left_where_it_is(
    desk: Desk, other: sqlite3.Connection
) -> None:
    done: list[int] = []
    desk.handle.checkpoint({"a": 5}, lambda: done.append(1))
    eventually(lambda: done == [1])
    other.execute("UPDATE tracking SET notification_id = 9 WHERE application_name = 'a'")
    desk.handle.checkpoint({"a": 7, "b": 1}, lambda: done.append(2))
    desk.handle.checkpoint({"a": 10}, lambda: done.append(3))
    eventually(lambda: done == [1, 2, 3] or bool(desk.deaths))
    assert not desk.deaths
    assert (desk.store.read_position("a"), desk.store.read_position("b")) == (10, 1)


def test_a_position_that_could_not_be_written_is_written_as_soon_as_it_can_be(desk: Desk) -> None:
    insert = desk.recorder.insert_tracking
    tries: list[int] = []

    def busy(*args: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")
        return insert(*args)

    desk.recorder.insert_tracking = busy  # type: ignore[method-assign,assignment]
    done: list[int] = []
    desk.handle.checkpoint({"a": 5}, lambda: done.append(1))
    eventually(lambda: done == [1])
    assert desk.store.read_position("a") == 5


def test_nothing_that_is_told_unbalances_the_journal(desk: Desk) -> None:
    """Asked, or told what it does not know: it goes on, and what stands beside it is committed."""
    go_on = desk.pause()
    desk.append()
    desk.ref.tell("gibberish")
    desk.append("lead:b:2")
    go_on()
    desk.answered(2)


def test_a_reply_that_raises_ends_the_process_with_its_cause(desk: Desk) -> None:
    def raises(_result: AppendResult) -> None:
        raise SystemExit(3)

    desk.handle.append(Append(STREAM, 0, encoded(STREAM, 0, 1), raises))
    eventually(lambda: [type(death) for death in desk.deaths] == [SystemExit])
    assert desk.versions() == [1]


def test_a_stop_comes_after_what_was_told_before_it(desk: Desk) -> None:
    for n in range(200):
        desk.append(f"lead:b:{n}")
    desk.ref.stop(timeout=10)
    assert len(desk.answers) == 200


def test_a_store_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    path.write_bytes(b"this is no database, and long enough to be looked at as one" * 100)
    with pytest.raises(OSError, match="cannot be opened as an event store"):
        open_recorder(path)


def test_a_snapshot_that_cannot_be_written_holds_up_nobody(desk: Desk) -> None:
    desk.recorder.write("DROP TABLE snapshots", [()])
    desk.handle.keep(Snapshot(STREAM, 1, "shape", b"{}"))
    desk.append()
    assert desk.answered(1) == [Committed(STREAM, 1, 7)]
