"""What `doctor` says of a folder and its events, each of it made so; NATS is not asked."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from typer.testing import CliRunner

from actors.ownership import DataFolderLock, Owner
from cli import health
from cli.app import app
from cli.health import Finding
from domain import events as ev
from settings import load
from tests.support.cli_data import write_data
from tests.support.projections_story import LeadStory, Story


def story_of(ago: timedelta) -> Story:
    """A lead's message, so long ago."""
    story = Story()
    story.now = datetime.now(UTC) - ago
    LeadStory(story, "acme", "+49").whole("m1")
    return story


def findings(data: Path, subject: str) -> list[Finding]:
    settings = load(env={}, overrides={"data": str(data)})
    looks = (health.look_at_data, health.look_at_runner, health.look_at_events, health.look_at_views)
    return [found for look in looks for found in look(settings) if found.subject == subject]


def only(data: Path, subject: str) -> Finding:
    [found] = findings(data, subject)
    return found


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[DataFolderLock]:
    lock = DataFolderLock(tmp_path)
    assert lock.acquire()
    yield lock
    lock.release()


def test_a_sound_folder_has_nothing_to_mend_but_that_no_runner_works_on_it(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    assert only(tmp_path, "views").state == "good"
    mend = "`leadline up`, or `leadline run`"
    assert only(tmp_path, "runner") == Finding("runner", "warning", "none works on this folder", mend)
    for subject in ("events", "clock", "breaker", "dlq"):
        assert findings(tmp_path, subject) == []


def test_a_runner_that_should_have_ended_by_now_is_said(tmp_path: Path, lock: DataFolderLock) -> None:
    now = datetime.now(UTC)
    lock.tell(Owner(7, "working", now))
    assert only(tmp_path, "runner").state == "good"
    lock.tell(Owner(7, "draining", now, now + timedelta(minutes=1), ("the call a",)))
    assert only(tmp_path, "runner").state == "good"
    lock.tell(Owner(7, "draining", now, now - timedelta(minutes=1), ("the call a",)))
    found = only(tmp_path, "runner")
    assert (found.state, "the call a" in found.found, "SIGTERM" in found.mend) == ("warning", True, True)


def test_views_that_have_stopped_are_bad_and_a_skipped_event_is_kept_in_mind(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = x'00' WHERE rowid = 3")
    run = CliRunner()
    assert run.invoke(app, ["--data", str(tmp_path), "rebuild"]).exit_code == 1
    stopped = only(tmp_path, "views")
    assert stopped.state == "bad"
    assert "event 3 (" in stopped.found
    skip = ["--data", str(tmp_path), "events", "skip", "3", "--why", "a bad disk"]
    assert run.invoke(app, skip).exit_code == 0
    assert run.invoke(app, ["--data", str(tmp_path), "rebuild"]).exit_code == 0
    assert only(tmp_path, "views").state == "good"
    assert only(tmp_path, "events").found == "1 skipped by a person: 3"


def test_a_clock_that_was_set_back_is_noticed_by_the_last_event(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(-timedelta(hours=1)).recorded)
    assert "in the future" in only(tmp_path, "clock").found


@pytest.mark.parametrize(("ago", "said"), [(timedelta(minutes=5), 0), (timedelta(hours=2), 1)])
def test_a_breaker_that_opens_again_and_again_has_been_open_since_the_first_time(
    tmp_path: Path, ago: timedelta, said: int
) -> None:
    story = story_of(ago)
    opened = ev.BreakerOpened("crm", 5, 5, story.now, 10, "refused")
    story.add("breaker:crm", opened, ev.BreakerHalfOpened("crm"), opened)
    write_data(tmp_path, story.recorded)
    assert len(findings(tmp_path, "breaker")) == said


def test_dead_letters_that_wait_for_long_and_what_waits_behind_them_are_said(tmp_path: Path) -> None:
    story = story_of(timedelta(days=3))
    lead = LeadStory(story, "acme", "+49")
    parks = msgspec.structs.replace(lead.dead_lettered("m2"), parks=True)
    lead.add(lead.received("m2"), lead.received("m3"), parks)
    write_data(tmp_path, story.recorded)
    waits, behind = findings(tmp_path, "dlq")
    assert waits.found.startswith("1 have waited for more than 24 h")
    assert behind.found.startswith("1 messages wait behind 1 dead letters")
    assert lead.dead_letter_id("m2") in behind.found


def test_what_a_cut_off_restore_left_is_said(tmp_path: Path) -> None:
    (tmp_path / "events.db.restoring").write_bytes(b"")
    assert "left over" in findings(tmp_path, "store")[-1].found


@pytest.mark.parametrize(("free", "state"), [(10**12, "good"), (10**9, "warning"), (10**7, "bad")])
def test_little_room_is_a_warning_and_none_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free))
    assert only(tmp_path, "disk").state == state


def test_the_doctor_says_all_of_it_and_fails_where_something_is_bad(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    answer = CliRunner().invoke(app, ["--data", str(tmp_path), "--nats", "nats://127.0.0.1:9", "doctor"])
    assert answer.exit_code == 1
    for told in ("none works on this folder", "views", "GiB free", "no NATS server answers"):
        assert told in answer.stdout
