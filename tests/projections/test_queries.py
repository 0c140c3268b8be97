"""What can be asked of the views, and what is said where there are none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from domain.errors import LeadlineError
from projections import database
from projections.queries import Views, history, task_by_id
from projections.rebuild import rebuild
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story, rejected
from tests.support.projections_views import views_of


@pytest.fixture
def story() -> Story:
    story = Story()
    acme, globex = LeadStory(story), LeadStory(story, "globex")
    acme.whole("m1")
    acme.whole("m2", "create_order")
    globex.whole("m1", "create_support_ticket")
    globex.add(globex.received("m3"), globex.dead_lettered("m3"))
    story.add("rejects:3", rejected("d1"))
    return story


def test_tasks_are_filtered_by_whatever_is_asked(story: Story) -> None:
    with views_of(story) as views:
        assert len(views.tasks()) == 3
        assert [row["task_type"] for row in views.tasks("globex")] == ["support_ticket"]
        assert len(views.tasks("acme", "+49 151/1")) == 2
        assert [row["message_id"] for row in views.tasks(task_type="order_processing")] == ["m2"]
        assert [row["message_id"] for row in views.tasks(assigned_to="sales", status="pending")] == ["m1"]
        assert views.tasks(status="completed") == []
        assert len(views.tasks(limit=2)) == 2
        (first, *_) = views.tasks()
        assert views.task(first["task_id"]) == first
        assert views.task("nobody's") is None


def test_a_task_is_found_by_its_id_without_reading_every_row(story: Story) -> None:
    with views_of(story) as views, views._reading() as reading:
        compiled = task_by_id("t1").compile(reading, compile_kwargs={"literal_binds": True})
        plan = reading.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").fetchall()
    scans = [step.detail for step in plan if step.detail.startswith("SCAN")]
    assert scans == ["SCAN tasks USING COVERING INDEX sqlite_autoindex_tasks_1"]


def test_dead_letters_are_filtered_by_whatever_is_asked(story: Story) -> None:
    with views_of(story) as views:
        assert len(views.dead_letters()) == 2
        assert [row["id"] for row in views.dead_letters(category="rejected")] == ["d1"]
        assert [row["message_id"] for row in views.dead_letters("globex", status="failed")] == ["m3"]
        (row,) = views.dead_letters("acme")
        assert views.dead_letter("d1") == row


def test_messages_leads_and_metrics_can_be_asked_by_their_keys(story: Story) -> None:
    with views_of(story) as views:
        assert len(views.processed(message="m1")) == 2
        assert [row["message_id"] for row in views.processed("globex", disposition="dead_lettered")] == ["m3"]
        assert [row["messages"] for row in views.leads("globex", "+49 151/1")] == [2]
        received = views.metrics("whatsapp_messages_received_total")
        assert [row["labels"] for row in received] == [{"business": "acme"}, {"business": "globex"}]


def test_the_position_says_which_store_and_how_far(story: Story) -> None:
    with views_of(story) as views:
        position = views.position()
    assert (position.store_id, position.position, position.applied) == ("store-1", 18, 18)
    assert (position.event_id, position.stopped_error) == (story.recorded[-1].event_id, None)


def test_a_leads_history_is_its_events_in_order_with_their_fields(story: Story) -> None:
    lead = LeadStory(story, "globex")
    rows = history(MemoryLog(story.recorded), lead.stream)
    assert [row["event"] for row in rows] == [
        "MessageReceived",
        "IntentDetected",
        "ActionsPlanned",
        "ActionExecuted",
        "MessageCompleted",
        "MessageReceived",
        "MessageDeadLettered",
    ]
    assert [row["version"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[3]["fields"]["task"]["task_type"] == "support_ticket"
    assert rows[0]["name"] == "message_received.v1"


def test_views_that_are_not_there_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LeadlineError, match=r"there are no views in .*views.db yet: start `leadline up`"):
        Views(tmp_path / "views.db").tasks()
    (tmp_path / "views.db").touch()
    with pytest.raises(LeadlineError, match="there are no views"):
        Views(tmp_path / "views.db").position()


def test_views_that_are_no_database_are_said_to_be_unreadable(tmp_path: Path) -> None:
    (tmp_path / "views.db").write_bytes(b"something else " * 500)
    with pytest.raises(LeadlineError, match=r"cannot be read: .*; `leadline rebuild` makes them anew"):
        Views(tmp_path / "views.db").tasks()


def test_views_that_are_locked_are_not_said_to_be_damaged(story: Story, tmp_path: Path) -> None:
    rebuild(MemoryLog(story.recorded), tmp_path / "views.db")
    with closing(sqlite3.connect(tmp_path / "views.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with (
            patch.object(database, "BUSY_MS", 50),
            pytest.raises(LeadlineError, match="database is locked; try again"),
        ):
            Views(tmp_path / "views.db").tasks()


def test_a_reader_sees_views_that_were_deleted_and_made_again(story: Story, tmp_path: Path) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, tmp_path / "views.db")
    views = Views(tmp_path / "views.db")
    assert len(views.tasks()) == 3
    (tmp_path / "views.db").unlink()
    del log.rows[5:]
    rebuild(log, tmp_path / "views.db")
    assert len(views.tasks()) == 1


def test_a_reader_cannot_write(story: Story) -> None:
    with (
        views_of(story) as views,
        pytest.raises(LeadlineError, match="readonly"),
        views._reading() as reading,
    ):
        reading.exec_driver_sql("DELETE FROM tasks")
