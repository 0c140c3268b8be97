"""When views are right: the projector's watch over store, file and events [H17, H18, H22, H24, H27, H28]."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from domain import events as ev
from domain.events import Event, Recorded
from projections import projector as projector_module
from projections import rebuild as rebuild_module
from projections.database import open_writer
from projections.fold import Fold
from projections.metrics import LONGEST_US, MAX_INTENTS, MAX_VALUE
from projections.projector import Progress, Projector, ProjectorSettings, run_projector
from projections.queries import Views
from projections.rebuild import one_at_a_time, rebuild, verify
from projections.schema import VIEWS_VERSION, metadata
from projections.store import ViewsStore
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


class Watched:
    """A projector with what it said and reported."""

    def __init__(self, log: MemoryLog, file: Path, *, batch: int = 8000) -> None:
        self.said: list[str] = []
        self.progress: list[Progress] = []
        self.file = file
        self.projector = Projector(
            log,
            file,
            ProjectorSettings(batch=batch),
            on_progress=self.progress.append,
            say=self.said.append,
        )

    def step(self) -> float:
        return self.projector.step()

    @property
    def position(self) -> int:
        return Views(self.file).position().position


@pytest.fixture
def story() -> Story:
    story = Story()
    lead = LeadStory(story)
    for n in range(4):
        lead.whole(f"m{n}")
    return story


@pytest.fixture
def log(story: Story) -> MemoryLog:
    return MemoryLog(story.recorded)


@pytest.fixture
def watched(log: MemoryLog, tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(log, tmp_path / "views.db")
    watched.step()
    yield watched
    watched.projector.close()


def started_again(watched: Watched, log: MemoryLog, *, batch: int = 8000) -> Watched:
    watched.projector.close()
    return Watched(log, watched.file, batch=batch)


def rows_of(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that a views database holds."""
    with closing(sqlite3.connect(file)) as connection:
        return {
            table.name: connection.execute(f"SELECT * FROM {table.name}").fetchall()
            for table in metadata.sorted_tables
        }


def test_a_first_start_says_that_it_builds_and_a_second_goes_on_from_the_position(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    assert watched.said == ["rebuilding the views: there are none"]
    again = started_again(watched, log)
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    again.step()
    assert (again.said, again.position) == ([], 25)
    assert verify(log, again.file).differences == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("restored", "they stand at event 20, and the store ends at 12"),
        ("new", "they were made from another event store"),
        ("restored and gone on", "event 20 is another one in the store than in the views"),
    ],
)
def test_views_ahead_of_their_store_are_noticed_said_in_one_line_and_rebuilt(
    watched: Watched, log: MemoryLog, changed: str, said: str
) -> None:
    other = Story()
    lead = LeadStory(other, lead="another")
    for n in range(5):
        lead.whole(f"other{n}")
    if changed == "restored":
        del log.rows[12:]
    elif changed == "new":
        log.id = "store-2"
    else:
        del log.rows[12:]
        log.append(*other.recorded[12:])
    again = started_again(watched, log)
    again.step()
    assert again.said == [f"rebuilding the views: {said}"]
    assert verify(log, again.file).differences == []


def test_views_of_another_version_are_rebuilt(watched: Watched, log: MemoryLog) -> None:
    with closing(sqlite3.connect(watched.file)) as connection, connection:
        connection.execute("UPDATE views_meta SET views_version = 0")
    again = started_again(watched, log)
    again.step()
    said = f"they are of version 0, this program makes version {VIEWS_VERSION}"
    assert again.said == [f"rebuilding the views: {said}"]
    assert again.position == 20


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_views_that_vanish_beneath_a_running_projector_are_back_at_its_next_look(
    watched: Watched, log: MemoryLog, how: str
) -> None:
    if how == "replaced":
        with closing(sqlite3.connect(watched.file.with_name("other.db"))) as connection, connection:
            connection.execute("CREATE TABLE tasks (task_id TEXT)")
        watched.file.with_name("other.db").replace(watched.file)
    else:
        watched.file.unlink()
    watched.step()
    assert watched.said[1:] == ["rebuilding the views: the views' file was removed or replaced"]
    assert watched.position == 20
    assert verify(log, watched.file).differences == []


def test_views_that_vanish_with_events_unread_count_each_of_them_once(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    """The rebuild goes further than the projector was: what it knew of the rows is of yesterday."""
    lead = LeadStory(story)
    for n in range(3):
        lead.whole(f"n{n}")
    log.append(*story.recorded[20:25])
    watched.step()
    log.append(*story.recorded[25:30])
    watched.file.unlink()
    watched.step()
    log.append(*story.recorded[30:])
    watched.step()
    assert watched.position == 35
    assert verify(log, watched.file).differences == []


def test_rows_and_position_are_written_together_or_not_at_all(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    """Rows without their position would be counted again."""
    before = rows_of(watched.file)
    with closing(sqlite3.connect(watched.file)) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON views_meta BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    store = ViewsStore(open_writer(watched.file))
    standing = store.standing()
    assert standing is not None
    with pytest.raises(sa.exc.IntegrityError, match="no room"):
        store.apply(Fold(), log.read(20, 100), standing)
    store.close()
    assert rows_of(watched.file) == before


def test_views_are_compared_where_their_copy_stands_and_not_where_they_stood_before(
    watched: Watched, log: MemoryLog, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = rebuild_module._copy

    def copy_later(live: Path, to: Path) -> None:
        watched.step()
        copy(live, to)

    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    monkeypatch.setattr(rebuild_module, "_copy", copy_later)
    found = verify(log, watched.file)
    assert (found.position, found.differences) == (25, [])


def test_a_views_file_that_is_no_database_is_rebuilt(tmp_path: Path, log: MemoryLog) -> None:
    (tmp_path / "views.db").write_bytes(b"nothing of the kind " * 500)
    watched = Watched(log, tmp_path / "views.db")
    watched.step()
    assert len(watched.said) == 1
    assert "cannot be read" in watched.said[0]
    assert watched.position == 20
    watched.projector.close()


def test_an_event_that_cannot_be_read_stops_the_projector_there_by_name_until_it_is_mended(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    log.corrupt.add(23)
    waits = [watched.step() for _ in range(4)]
    position = Views(watched.file).position()
    assert position.position == 22
    assert position.stopped_error is not None
    assert position.stopped_error.startswith("event 23 (actions_planned.v1, version 23 of lead:acme:")
    assert waits[-1] == 1.0, "tries again each second instead of spinning"
    assert len(watched.said) == 2, "said once, however often it is tried"
    assert (watched.progress[-1].lag, watched.progress[-1].stopped) == (3, position.stopped_error)
    log.corrupt.clear()
    watched.step()
    assert (watched.position, Views(watched.file).position().stopped_error) == (25, None)


def test_an_event_that_cannot_be_applied_stops_the_projector_with_all_before_it_applied(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    lead = LeadStory(story, lead="next")
    lead.whole("m9")
    opened = ev.BreakerOpened("orders", 10, 2**63, story.now, 1, "too many failures for any database")
    story.add("breaker:orders", opened)
    lead.whole("m10")
    log.append(*story.recorded[20:])
    watched.step()
    position = Views(watched.file).position()
    assert position.position == 25
    assert position.stopped_error is not None
    assert "event 26 (BreakerOpened, version 1 of breaker:orders) cannot be applied" in position.stopped_error
    assert len(Views(watched.file).tasks()) == 5
    assert verify(log, watched.file).differences == []


def test_a_rebuild_stops_at_the_same_event_and_says_so(log: MemoryLog, tmp_path: Path) -> None:
    log.corrupt.add(8)
    watched = Watched(log, tmp_path / "views.db")
    watched.step()
    position = Views(watched.file).position()
    assert position.position == 7
    assert position.stopped_error is not None
    log.corrupt.clear()
    watched.step()
    assert (watched.position, Views(watched.file).position().stopped_error) == (20, None)
    watched.projector.close()


def test_absurd_numbers_of_a_publisher_stop_nothing(watched: Watched, log: MemoryLog, story: Story) -> None:
    lead = LeadStory(story)
    for n in range(3):
        lead.add(lead.received(f"x{n}", ai_latency_ms=2.0**53), lead.completed(f"x{n}", us=2**62))
    log.append(*story.recorded[20:])
    watched.step()
    views = Views(watched.file)
    assert views.position().stopped_error is None
    assert views.metrics("ai_processing_seconds_sum")[0]["value"] == 4 * 129_500 + 3 * LONGEST_US
    assert views.metrics("message_processing_seconds_sum")[0]["value"] == MAX_VALUE


def test_nul_never_reaches_a_text_column(watched: Watched, log: MemoryLog, story: Story) -> None:
    lead = LeadStory(story)
    lead.add(lead.received("x"))
    letter = lead.dead_lettered("x")
    assert isinstance(letter, ev.MessageDeadLettered)
    lead.add(
        ev.MessageDeadLettered(
            "d", "x", lead.lead, lead.business, "t", 1, "action_failed", "bro\0ken", "pay\0load", "st\0ack"
        )
    )
    log.append(*story.recorded[20:])
    watched.step()
    row = Views(watched.file).dead_letter("d")
    assert row is not None
    assert [row["error_message"], row["original_payload"], row["error_stack"]] == [
        "bro\ufffdken",
        "pay\ufffdload",
        "st\ufffdack",
    ]


def test_sums_of_the_same_observations_are_the_same_in_any_order_of_batches(tmp_path: Path) -> None:
    story = Story()
    lead = LeadStory(story)
    for n in range(40):
        lead.add(
            lead.received(f"m{n}", ai_latency_ms=0.1 + n / 7), lead.intent(f"m{n}", confidence=0.1 + n / 97)
        )
    sums = []
    for batch in (1, 7, 100):
        log = MemoryLog()
        watched = Watched(log, tmp_path / f"{batch}.db", batch=batch)
        watched.step()
        log.append(*story.recorded)
        while watched.step() == 0:
            pass
        rows = Views(watched.file).metrics()
        sums.append({row["name"]: row["value"] for row in rows if row["name"].endswith("_sum")})
        assert all(isinstance(row["value"], int) for row in rows)
        watched.projector.close()
    assert sums[0] == sums[1] == sums[2]


def test_after_a_restart_as_many_intents_have_a_label_as_before(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    lead = LeadStory(story)
    for n in range(MAX_INTENTS + 10):
        lead.add(lead.intent(f"i{n}", intent=f"INTENT_{n}"))
    log.append(*story.recorded[20:-20])
    watched.step()
    again = started_again(watched, log)
    log.append(*story.recorded[-20:])
    again.step()
    assert verify(log, again.file).differences == []


def test_a_batch_costs_a_few_statements_however_many_rows_it_touches(tmp_path: Path) -> None:
    story = Story()
    for n in range(300):
        LeadStory(story, lead=f"l{n}").whole(f"m{n}")
    log = MemoryLog()
    watched = Watched(log, tmp_path / "views.db")
    watched.step()
    log.append(*story.recorded[:1500])
    statements: list[str] = []

    def counted(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", counted)
    try:
        watched.step()
    finally:
        event.remove(sa.Engine, "before_cursor_execute", counted)
    assert len(Views(watched.file).tasks()) == 300
    assert len(statements) < 40
    watched.projector.close()


def test_a_busy_database_is_waited_for_and_loses_nothing(
    watched: Watched, log: MemoryLog, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    busy = sa.exc.OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))
    with monkeypatch.context() as patched:
        patched.setattr(projector_module, "apply_up_to_trouble", _raising(busy))
        assert watched.step() == 1.0
    assert watched.progress[-1].stopped == "database is locked"
    watched.step()
    assert watched.position == 25
    assert verify(log, watched.file).differences == []


@pytest.mark.parametrize("why", ["database is locked", "database or disk is full"])
def test_what_holds_the_projector_up_is_said_once_until_it_goes_on(
    watched: Watched, log: MemoryLog, story: Story, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    held_up = sa.exc.OperationalError("INSERT", {}, Exception(why))
    line = f"the views are held up, tried again until they go on: {why}"
    with monkeypatch.context() as patched:
        patched.setattr(projector_module, "apply_up_to_trouble", _raising(held_up))
        assert [watched.step() for _ in range(3)] == [1.0, 1.0, 1.0]
    assert watched.said[1:] == [line]
    watched.step()
    assert (watched.position, watched.said[1:]) == (25, [line])
    LeadStory(story).whole("m10")
    log.append(*story.recorded[25:])
    with monkeypatch.context() as patched:
        patched.setattr(projector_module, "apply_up_to_trouble", _raising(held_up))
        watched.step()
    assert watched.said[1:] == [line, line], "it went on in between: this is news"
    watched.step()
    assert verify(log, watched.file).differences == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE tasks", "no such table: tasks"),
        ("DROP TABLE views_meta", "no such table: views_meta"),
        ("UPDATE leads SET last_intent = CAST(x'ff' AS TEXT)", "Could not decode to UTF-8"),
        ("ALTER TABLE breakers DROP COLUMN failures", "no such column: breakers.failures"),
        ("ALTER TABLE views_meta RENAME COLUMN applied TO done", "no such column: views_meta.applied"),
    ],
)
def test_views_altered_beneath_a_running_projector_are_rebuilt(
    watched: Watched, log: MemoryLog, story: Story, damage: str, said: str
) -> None:
    with closing(sqlite3.connect(watched.file)) as connection, connection:
        connection.execute(damage)
    LeadStory(story).whole("m9")
    story.add("breaker:orders", ev.BreakerOpened("orders", 10, 3, story.now, 1, "refused"))
    log.append(*story.recorded[20:])
    assert watched.step() == 0.0
    assert watched.step() == 0.05
    [line] = watched.said[1:]
    assert line.startswith("rebuilding the views: the views cannot be read (")
    assert said in line
    assert (watched.position, len(Views(watched.file).tasks())) == (26, 5)
    assert verify(log, watched.file).differences == []


def test_a_rebuild_of_damaged_views_that_is_held_up_ends_no_projector(
    watched: Watched, log: MemoryLog, story: Story
) -> None:
    with closing(sqlite3.connect(watched.file)) as connection, connection:
        connection.execute("DROP TABLE tasks")
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    with one_at_a_time(watched.file, "rebuild"):
        assert watched.step() == 1.0
    while watched.step() == 0:
        pass
    assert verify(log, watched.file).differences == []


def _raising(error: Exception) -> object:
    def raises(*_: object) -> None:
        raise error

    return raises


def test_a_rebuild_by_somebody_else_is_waited_for(tmp_path: Path, log: MemoryLog) -> None:
    watched = Watched(log, tmp_path / "views.db")
    with one_at_a_time(watched.file, "rebuild"):
        assert watched.step() == 1.0
    watched.step()
    assert watched.position == 20
    watched.projector.close()


def test_readers_never_hold_up_the_projector(watched: Watched, log: MemoryLog, story: Story) -> None:
    LeadStory(story).whole("m9")
    log.append(*story.recorded[20:])
    with closing(sqlite3.connect(watched.file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
        watched.step()
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
    assert watched.position == 25


def test_it_runs_on_a_thread_until_it_is_told_to_stop_and_closes_its_log(
    tmp_path: Path, log: MemoryLog
) -> None:
    stop = threading.Event()
    looked_again = threading.Event()

    class Read(MemoryLog):
        def read(
            self, after: int, limit: int, kinds: Collection[type[Event]] | None = None
        ) -> Sequence[Recorded]:
            if after == 20:
                looked_again.set()
            return super().read(after, limit, kinds)

    read = Read()
    read.rows = log.rows
    thread = threading.Thread(target=run_projector, args=(lambda: read, tmp_path / "views.db", stop))
    thread.start()
    assert looked_again.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert read.closed
    assert Views(tmp_path / "views.db").position().position == 20


def test_what_was_recorded_before_the_stop_is_projected_before_the_end(
    tmp_path: Path, log: MemoryLog
) -> None:
    stop = threading.Event()
    stop.set()
    Projector(log, tmp_path / "views.db").run(stop)
    assert not (tmp_path / "views.db").exists(), "a rebuild is not begun any more"
    watched = Watched(MemoryLog(), tmp_path / "views.db")
    watched.step()
    watched.projector.close()
    empty = MemoryLog()
    empty.rows = log.rows
    Projector(empty, tmp_path / "views.db").run(stop)
    assert Views(tmp_path / "views.db").position().position == 20


def test_a_full_batch_is_followed_by_the_next_at_once_and_a_short_one_lingers(
    log: MemoryLog, tmp_path: Path
) -> None:
    watched = Watched(MemoryLog(), tmp_path / "views.db")
    watched.step()
    again = started_again(watched, log, batch=15)
    assert [again.step(), again.step(), again.step()] == [0.0, 0.05, 0.05]
    again.projector.close()


def test_the_rebuild_of_a_projector_can_be_done_elsewhere(tmp_path: Path, log: MemoryLog) -> None:
    asked: list[object] = []

    def elsewhere(stop: object) -> None:
        asked.append(stop)
        rebuild(log, tmp_path / "views.db")

    projector = Projector(log, tmp_path / "views.db", rebuilder=elsewhere)
    projector.step()
    assert len(asked) == 1
    projector.close()
