"""Rebuild equals live, whatever the batches; the swap is whole; `verify` finds what was falsified."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain import events as ev
from domain.errors import LeadlineError
from projections import leads, processed_messages, unfinished
from projections import rebuild as rebuild_module
from projections.build import RebuildStoppedError, build
from projections.compare import compare
from projections.projector import Projector, ProjectorSettings
from projections.queries import Views
from projections.rebuild import (
    RebuildBusyError,
    one_at_a_time,
    rebuild,
    swap,
    verify,
)
from tests.support.cli_data import spoil_table
from tests.support.projections_log import MemoryLog
from tests.support.projections_plausible import stories
from tests.support.projections_story import LeadStory, Story


@pytest.fixture
def story() -> Story:
    story = Story()
    lead = LeadStory(story)
    for n in range(5):
        lead.whole(f"m{n}")
    return story


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def dump(views: Path) -> list[str]:
    with closing(sqlite3.connect(views)) as connection:
        return list(connection.iterdump())


@contextmanager
def remembering(kept: int) -> Iterator[None]:
    """Views that keep so many rows in memory from batch to batch."""
    with (
        patch.object(leads, "KEPT_LEADS", kept),
        patch.object(processed_messages, "KEPT", kept),
        patch.object(unfinished, "KEPT", kept),
    ):
        yield


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    story=stories(),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    rebuilt_by=st.integers(1, 50),
    kept=st.sampled_from([0, 1, 3, 20_000]),
)
def test_a_rebuild_equals_the_live_views_whatever_the_batches(
    story: Story, sizes: list[int], rebuilt_by: int, kept: int
) -> None:
    log = MemoryLog()
    with tempfile.TemporaryDirectory() as name, remembering(kept):
        folder = Path(name)
        projector = Projector(log, folder / "views.db", ProjectorSettings(batch=30))
        start, turn = 0, 0
        while start < len(story.recorded):  # events come in while the projector runs
            size = sizes[turn % len(sizes)]
            log.append(*story.recorded[start : start + size])
            start += size
            turn += 1
            projector.step()
        while projector.step() == 0:
            pass
        projector.close()
        rebuild(log, folder / "again" / "views.db", batch=rebuilt_by)
        rows, differences = compare(folder / "views.db", folder / "again" / "views.db")
        assert differences == []
        assert rows > 0 or not story.recorded
        assert verify(log, folder / "views.db", batch=rebuilt_by).differences == []
        assert Views(folder / "views.db").position() == Views(folder / "again" / "views.db").position()


@settings(max_examples=60, deadline=None)
@given(story=stories())
def test_open_tasks_and_flags_of_a_lead_are_what_its_tasks_and_history_say(story: Story) -> None:
    with tempfile.TemporaryDirectory() as name:
        views_file = Path(name) / "views.db"
        rebuild(MemoryLog(story.recorded), views_file, batch=17)
        views = Views(views_file)
        for lead in views.leads():
            tasks = views.tasks(lead["business_id"], lead["lead_id"])
            assert lead["open_tasks"] == sum(task["status"] in ("pending", "in_progress") for task in tasks)
        at_work = {(row["business_id"], row["lead_id"], row["message_id"]) for row in views.unfinished()}
        in_progress = {
            (row["business_id"], row["lead_id"], row["message_id"])
            for row in views.processed(disposition="in_progress")
        }
        assert in_progress <= at_work


def test_deleted_views_come_back_the_same_to_the_last_byte_of_each_row(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    before = dump(folder / "views.db")
    (folder / "views.db").unlink()
    rebuild(log, folder / "views.db", batch=3)
    assert dump(folder / "views.db") == before


def test_a_reader_in_the_middle_of_its_transaction_sees_the_old_views_through_the_swap(
    story: Story, folder: Path
) -> None:
    log = MemoryLog(story.recorded[:10])
    projector = Projector(log, folder / "views.db")
    projector.step()
    with closing(sqlite3.connect(folder / "views.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT position FROM views_meta").fetchone() == (10,)
        log.append(*story.recorded[10:])
        rebuild(log, folder / "views.db")
        assert reader.execute("SELECT position FROM views_meta").fetchone() == (10,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT position FROM views_meta").fetchone() == (25,)
    projector.close()


def test_a_live_projector_goes_on_from_views_that_another_process_has_rebuilt(
    story: Story, folder: Path
) -> None:
    log = MemoryLog(story.recorded[:5])
    projector = Projector(log, folder / "views.db")
    projector.step()
    log.append(*story.recorded[5:15])
    rebuild(log, folder / "views.db")
    log.append(*story.recorded[15:])
    while Views(folder / "views.db").position().position < 25:
        projector.step()
    assert verify(log, folder / "views.db").differences == []
    projector.close()


@pytest.mark.parametrize("moment", ["building", "built", "half swapped"])
def test_a_rebuild_killed_at_any_moment_leaves_views_that_answer(
    story: Story, folder: Path, moment: str
) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    before = dump(folder / "views.db")
    pid = os.fork()
    if pid == 0:  # the child dies without a word, as from kill -9
        _die_while(log, folder, moment)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert dump(folder / "views.db") == before
    assert rebuild(log, folder / "views.db").position == 25
    assert sorted(path.name for path in folder.iterdir() if "next" in path.name) == []


def _die_while(log: MemoryLog, folder: Path, moment: str) -> None:
    if moment == "building":
        rebuild(log, folder / "views.db", batch=5, on_built=lambda _at, _last: os._exit(9))
    built = folder / "views.next.db"
    build(log, built)
    if moment == "built":
        os._exit(9)
    with closing(sqlite3.connect(built)) as source, closing(sqlite3.connect(folder / "views.db")) as target:
        source.backup(target, pages=1, progress=lambda *_: os._exit(9))


def test_views_that_are_no_database_any_more_are_replaced(story: Story, folder: Path) -> None:
    (folder / "views.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    (folder / "views.db-wal").write_bytes(b"left over")
    rebuild(MemoryLog(story.recorded), folder / "views.db")
    assert Views(folder / "views.db").position().position == 25


def test_a_rebuild_up_to_an_event_that_cannot_be_applied_has_nothing_of_the_rows_beside_it(
    story: Story, folder: Path
) -> None:
    for _ in range(2):
        story.add("breaker:orders", ev.BreakerOpened("orders", 10, 2**63, story.now, 1, "too many"))
        LeadStory(story).whole("behind")
    assert rebuild(MemoryLog(story.recorded), folder / "views.db").position == 25
    rebuild(MemoryLog(story.recorded[:25]), folder / "until" / "views.db")
    rows, differences = compare(folder / "views.db", folder / "until" / "views.db")
    assert (rows > 0, differences) == (True, [])


def test_one_rebuild_at_a_time(story: Story, folder: Path) -> None:
    with one_at_a_time(folder / "views.db", "rebuild"), pytest.raises(RebuildBusyError, match="under way"):
        rebuild(MemoryLog(story.recorded), folder / "views.db")


def test_a_stopped_rebuild_leaves_the_old_views(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded[:5])
    rebuild(log, folder / "views.db")
    log.append(*story.recorded[5:])

    class AtOnce:
        def is_set(self) -> bool:
            return True

    with pytest.raises(RebuildStoppedError):
        rebuild(log, folder / "views.db", stop=AtOnce())
    assert Views(folder / "views.db").position().position == 5


def test_verify_tells_each_falsified_row_with_its_key_and_both_values(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    with closing(sqlite3.connect(folder / "views.db")) as connection, connection:
        connection.execute("UPDATE tasks SET status = 'completed' WHERE message_id = 'm1'")
        connection.execute("DELETE FROM processed_messages WHERE message_id = 'm2'")
        connection.execute("UPDATE metrics SET value = value + 1 WHERE name = 'ai_intent_confidence_sum'")
        connection.execute("INSERT INTO unfinished VALUES ('l', 'acme', 3, 'ghost', 's', 'retry')")
    found = {(d.table, d.column, d.live, d.rebuilt) for d in verify(log, folder / "views.db").differences}
    assert found == {
        ("tasks", "status", "completed", "pending"),
        ("processed_messages", "*", "missing", "present"),
        ("metrics", "value", 5 * 910_000 + 1, 5 * 910_000),
        ("unfinished", "*", "present", "missing"),
    }
    keys = [d.key for d in verify(log, folder / "views.db").differences if d.table == "processed_messages"]
    assert keys == [{"message_id": "m2", "lead_id": "+49 151/1", "business_id": "acme"}]


def test_verify_tells_values_that_no_view_can_have(story: Story, folder: Path) -> None:
    """Bytes where a text should be, and a text with a byte that is none: in values and in keys."""
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    with closing(sqlite3.connect(folder / "views.db")) as connection, connection:
        connection.execute("UPDATE tasks SET title = CAST(x'ff' AS TEXT) WHERE message_id = 'm1'")
        connection.execute("UPDATE tasks SET title = x'00' WHERE message_id = 'm2'")
        connection.execute("UPDATE metrics SET labels = x'00' WHERE name = 'ai_intent_confidence_sum'")
        connection.execute(
            "UPDATE processed_messages SET message_id = CAST(x'6dff' AS TEXT) WHERE message_id = 'm3'"
        )
    differences = verify(log, folder / "views.db").differences
    assert {(d.table, d.column, d.live) for d in differences if d.table == "tasks"} == {
        ("tasks", "title", r"b'\xff'"),
        ("tasks", "title", r"b'\x00'"),
    }
    rows = {(d.key["message_id"], d.live) for d in differences if d.table == "processed_messages"}
    assert rows == {(r"b'm\xff'", "present"), ("m3", "missing")}
    assert {(d.key["labels"], d.live) for d in differences if d.table == "metrics"} == {
        (r"b'\x00'", "present"),
        ("{}", "missing"),
    }
    assert msgspec.json.encode(differences)


def test_verify_compares_at_the_live_views_own_position_and_disturbs_nothing(
    story: Story, folder: Path
) -> None:
    log = MemoryLog(story.recorded[:12])
    projector = Projector(log, folder / "views.db")
    projector.step()
    log.append(*story.recorded[12:])  # the store is ahead of the views while verify runs
    before = dump(folder / "views.db")
    found = verify(log, folder / "views.db")
    assert (found.position, found.differences) == (12, [])
    assert found.rows > 0
    assert dump(folder / "views.db") == before
    projector.step()
    assert Views(folder / "views.db").position().position == 25
    projector.close()
    assert not [path for path in folder.iterdir() if "copy" in path.name or "verify.db" in path.name]


def test_verify_says_of_damaged_views_what_mends_them(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    spoil_table(folder / "views.db", "tasks")
    with pytest.raises(LeadlineError, match=r"cannot be read: .*; `leadline rebuild` makes them anew"):
        verify(log, folder / "views.db")
    assert sorted(path.name for path in folder.iterdir()) == [
        "views.db",
        "views.rebuild.lock",
        "views.verify.lock",
    ]
    rebuild(log, folder / "views.db")
    assert not verify(log, folder / "views.db").differences


def test_verify_refuses_views_of_another_store(story: Story, folder: Path) -> None:
    rebuild(MemoryLog(story.recorded), folder / "views.db")
    with pytest.raises(LeadlineError, match="another event store"):
        verify(MemoryLog(story.recorded, store_id="store-2"), folder / "views.db")


def test_a_full_disk_while_swapping_leaves_the_old_views(
    story: Story, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, folder / "views.db")
    before = dump(folder / "views.db")

    def full(_built: Path, _live: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(rebuild_module, "swap", full)
    with pytest.raises(sqlite3.OperationalError):
        rebuild(log, folder / "views.db")
    assert dump(folder / "views.db") == before
    assert not (folder / "views.next.db").exists()


def test_a_swap_over_nothing_takes_away_the_log_of_the_deleted_views(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded[:10])
    projector = Projector(log, folder / "views.db")
    projector.step()
    shutil.copy(folder / "views.db-wal", folder / "old-wal")  # what a deleted views.db leaves behind
    projector.close()
    (folder / "views.db").unlink()
    shutil.copy(folder / "old-wal", folder / "views.db-wal")
    build(MemoryLog(story.recorded), folder / "views.next.db")
    swap(folder / "views.next.db", folder / "views.db")
    assert Views(folder / "views.db").position().position == 25
