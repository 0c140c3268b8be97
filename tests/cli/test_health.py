"""What `doctor` says of a folder and its events, each of it made so; NATS is not asked."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from typer.testing import CliRunner

from actors import connection as wire
from actors.ownership import DataFolderLock, Owner
from cli import health, runner_health
from cli.app import app
from cli.finding import Finding
from domain import events as ev
from outbox.position import OutboxPosition, PositionFile
from projections import collector
from settings import load
from tests.support.cli_data import spoil_table, write_data
from tests.support.projections_story import LeadStory, Story, rejected


def story_of(ago: timedelta) -> Story:
    """A lead's message, so long ago."""
    story = Story()
    story.now = datetime.now(UTC) - ago
    LeadStory(story, "acme", "+49").whole("m1")
    return story


def findings(data: Path, subject: str, more: dict[str, Any] | None = None) -> list[Finding]:
    settings = load(env={}, overrides={"data": str(data), **(more or {})})
    looks = (
        health.look_at_data,
        runner_health.look_at_runner,
        health.look_at_events,
        health.look_at_views,
        health.look_at_outbox,
    )
    return [found for look in looks for found in look(settings) if found.subject == subject]


def only(data: Path, subject: str, more: dict[str, Any] | None = None) -> Finding:
    [found] = findings(data, subject, more)
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


CRM = {"targets.create_order": [{"kind": "scripted", "name": "crm"}]}


@pytest.mark.parametrize(
    ("ago", "kind", "mend"),
    [
        (timedelta(minutes=5), {}, "nothing yet"),
        (timedelta(hours=2), {}, "look after its target"),
        (timedelta(hours=2), {"configuration": True}, "mend its secret"),
        (timedelta(hours=2), {"switched_off": True}, "take it up with its owner"),
    ],
)
def test_a_breaker_that_opens_again_and_again_has_been_open_since_the_first_time(
    tmp_path: Path, ago: timedelta, kind: dict[str, bool], mend: str
) -> None:
    story = story_of(ago)
    opened = ev.BreakerOpened("create_order.crm", 5, 5, story.now, 10, "it refused", **kind)
    story.add("breaker:create_order.crm", opened, ev.BreakerClosed("create_order.crm"))
    story.now += timedelta(minutes=1)
    story.add("breaker:create_order.crm", opened, ev.BreakerHalfOpened("create_order.crm"))
    since = story.recorded[-2].at
    story.now += timedelta(minutes=1)
    story.add("breaker:create_order.crm", opened)
    write_data(tmp_path, story.recorded)
    found = only(tmp_path, "breaker", CRM)
    assert found.found == f"create_order.crm is open, not closed since {since:%Y-%m-%d %H:%M} UTC: it refused"
    assert (found.state, found.mend.startswith(mend)) == ("warning", True)
    assert findings(tmp_path, "breaker") == [], "the settings no longer name it"


@pytest.mark.parametrize("kind", [{}, {"configuration": True}])
def test_of_a_breaker_that_is_being_probed_nothing_is_to_be_mended(
    tmp_path: Path, kind: dict[str, bool]
) -> None:
    story = story_of(timedelta(hours=2))
    opened = ev.BreakerOpened("create_order.crm", 5, 5, story.now, 10, "it refused", **kind)
    story.add("breaker:create_order.crm", opened, ev.BreakerHalfOpened("create_order.crm"))
    write_data(tmp_path, story.recorded)
    found = only(tmp_path, "breaker", CRM)
    assert "is half-open" in found.found
    assert found.mend.startswith("nothing yet: the next calls of it are probes")


def test_a_breaker_that_has_closed_again_is_no_finding(tmp_path: Path) -> None:
    story = story_of(timedelta(hours=2))
    opened = ev.BreakerOpened("create_order.crm", 5, 5, story.now, 10, "it refused")
    story.add("breaker:create_order.crm", opened, ev.BreakerClosed("create_order.crm"))
    write_data(tmp_path, story.recorded)
    assert findings(tmp_path, "breaker", CRM) == []


def test_dead_letters_that_wait_for_long_and_what_waits_behind_them_are_said(tmp_path: Path) -> None:
    story = story_of(timedelta(days=3))
    lead = LeadStory(story, "acme", "+49")
    parks = msgspec.structs.replace(lead.dead_lettered("m2"), parks=True)
    lead.add(lead.received("m2"), lead.received("m3"), parks)
    write_data(tmp_path, story.recorded)
    waits, behind = findings(tmp_path, "dlq")
    assert waits.found.startswith("1 have waited for more than 24 h")
    assert behind.found.startswith("1 message behind 1 dead letter, 1 of them behind dead letter ")
    assert lead.dead_letter_id("m2") in behind.found


def test_leads_that_are_stopped_are_bad_each_of_them_once(tmp_path: Path) -> None:
    story = story_of(timedelta(minutes=5))
    held, kept = LeadStory(story, "acme", "+1"), LeadStory(story, "acme", "+2")
    held.add(held.received("m1"))
    story.add("rejects:3", ev.LeadStopped(held.stream, "an earlier one", "", 3))
    story.add("rejects:3", ev.LeadStopped(held.stream, "KeyError: 'x'", "the stack", 3))
    story.add("rejects:4", ev.LeadStopped(kept.stream, "its code did not come back within 30 s", "", 1))
    story.add("rejects:3", rejected("d2", lead="+2", category="lead_stopped"))
    write_data(tmp_path, story.recorded)
    found = only(tmp_path, "leads")
    raised, hung = len(story.recorded) - 2, len(story.recorded) - 1
    one = f"acme/+1 (event {raised}: KeyError: 'x')"
    other = f"acme/+2 (event {hung}: its code did not come back within 30 s)"
    assert found.found == f"2 leads stopped: {one}, {other}"
    assert (found.state, "lead resume" in found.mend) == ("bad", True)
    assert f"`leadline events show {raised}` has the stack" in found.mend
    shown = CliRunner().invoke(app, ["--data", str(tmp_path), "events", "show", str(raised)])
    assert "the stack" in shown.stdout


@pytest.mark.parametrize(
    ("category", "said"),
    [("outcome_unknown", "of 1 call nobody knows"), ("compensation_failed", "could not be undone")],
)
def test_what_only_a_person_can_settle_is_said_at_once(tmp_path: Path, category: Any, said: str) -> None:
    story = story_of(timedelta(minutes=5))
    lead = LeadStory(story, "acme", "+1")
    lead.add(lead.received("m1"), msgspec.structs.replace(lead.dead_lettered("m1"), category=category))
    write_data(tmp_path, story.recorded)
    found = only(tmp_path, "dlq")
    assert (found.state, said in found.found) == ("warning", True)
    assert lead.dead_letter_id("m1") in found.found
    assert "dlq resolve ID --as" in found.mend


def test_what_waits_for_a_targets_configuration_is_said(tmp_path: Path) -> None:
    story = story_of(timedelta(minutes=5))
    lead = LeadStory(story, "acme", "+1")
    lead.add(lead.received("m1"), lead.deferred("m1", "target_configuration"))
    write_data(tmp_path, story.recorded)
    assert only(tmp_path, "work").found.startswith("1 message held up by a target's configuration")


def test_what_is_at_work_for_hours_beside_a_runner_is_said(tmp_path: Path, lock: DataFolderLock) -> None:
    story = story_of(timedelta(hours=3))
    lead = LeadStory(story, "acme", "+1 2")
    lead.add(lead.received("m1"))
    write_data(tmp_path, story.recorded)
    assert findings(tmp_path, "work") == [], "nobody works"
    lock.tell(Owner(7, "working", datetime.now(UTC)))
    found = only(tmp_path, "work")
    assert "1 message at work for more than an hour" in found.found
    assert "leadline lead acme '+1 2'" in found.mend


def test_results_that_have_stopped_are_bad(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    with closing(PositionFile(tmp_path / "outbox.db")) as file:
        file.write(OutboxPosition("s", "l", 2, "e"))
        assert only(tmp_path, "outbox").state == "good"
        file.write(OutboxPosition("s", "l", 2, "e", "event 3 cannot be read"))
    found = only(tmp_path, "outbox")
    assert (found.state, found.found) == ("bad", "stopped: event 3 cannot be read")
    (tmp_path / "outbox.db").write_bytes(b"no database" * 1000)
    found = only(tmp_path, "outbox")
    assert (found.state, "outbox.db cannot be read" in found.found) == ("bad", True)


def test_views_that_are_damaged_are_said_and_what_makes_them_anew(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    (tmp_path / "views.db").write_bytes(b"no database" * 1000)
    found = only(tmp_path, "views")
    assert (found.state, "leadline rebuild" in found.mend) == ("warning", True)


@pytest.mark.parametrize(
    ("gauges", "said"),
    [
        ({"journal_stalled": 1.0}, "the event store cannot be written"),
        ({"pool_hanging": 1.0}, "1 lead is at one message for too long"),
        ({"intake_connected": 0.0}, "no connection to NATS"),
    ],
)
def test_what_a_runner_says_of_itself_is_asked(
    tmp_path: Path, lock: DataFolderLock, gauges: dict[str, float], said: str
) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    sound = {"journal_stalled": 0.0, "pool_hanging": 0.0, "intake_connected": 1.0}
    now: dict[str, float] = dict(sound)
    server = collector.serve(tmp_path / "views.db", 0, lambda: now)
    lock.tell(Owner(7, "working", datetime.now(UTC), metrics=server.url))
    assert only(tmp_path, "runner").state == "good"
    now |= gauges
    _, found = findings(tmp_path, "runner")
    assert (found.state, said in found.found) == ("bad", True)
    server.stop()
    _, found = findings(tmp_path, "runner")
    assert (found.state, "does not answer" in found.found) == ("warning", True)


def test_an_event_that_would_keep_a_runner_from_starting_is_said_before_it_is_tried(tmp_path: Path) -> None:
    story = story_of(timedelta(hours=1))
    story.add("intake:3", ev.StreamRewound(3, "1.0", 9, 4, "1.1"))
    write_data(tmp_path, story.recorded)
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = x'00' WHERE originator_id = 'intake:3'")
    _, found = findings(tmp_path, "runner")
    assert (found.state, found.found.startswith("the next one will not start: event")) == ("bad", True)
    assert "events skip" in found.mend


def test_a_store_that_is_none_hides_no_other_finding(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_bytes(b"no database" * 1000)
    answer = CliRunner().invoke(app, ["--data", str(tmp_path), "--nats", "nats://127.0.0.1:9", "doctor"])
    assert answer.exit_code == 1
    assert "events.db cannot be read: file is not a database" in answer.stdout
    assert "no NATS server answers" in answer.stdout


def test_of_damaged_views_it_is_said_that_a_rebuild_mends_them(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(hours=1)).recorded)
    for table in ("tasks", "dead_letter_queue", "unfinished", "breakers"):
        spoil_table(tmp_path / "views.db", table)
    words = ("--data", str(tmp_path), "--nats", "nats://127.0.0.1:9", "doctor", "--json")
    found = json.loads(CliRunner().invoke(app, words).stdout)
    [bad] = [f for f in found if f["subject"] == "views" and f["state"] == "bad"]
    assert "cannot be looked at" in bad["found"]
    assert "`leadline rebuild`" in bad["mend"]
    assert "restore" not in bad["mend"]


def test_what_a_cut_off_restore_left_is_said(tmp_path: Path) -> None:
    (tmp_path / "events.db.restoring").write_bytes(b"")
    assert "left over" in findings(tmp_path, "store")[-1].found


def test_the_size_of_a_store_is_that_of_its_write_ahead_log_too(tmp_path: Path) -> None:
    write_data(tmp_path, story_of(timedelta(minutes=5)).recorded)
    store, log = tmp_path / "events.db", tmp_path / "events.db-wal"
    with closing(sqlite3.connect(store, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("CREATE TABLE filler AS SELECT zeroblob(3000000) AS filling")
        assert log.stat().st_size > 3_000_000
        size = store.stat().st_size + log.stat().st_size
        assert findings(tmp_path, "store")[0].found == f"{store}, {size:,} bytes with its write-ahead log"


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


def test_a_server_that_is_not_there_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connecting(*_args: object, **_options: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(wire, "connect", connecting)
    answer = CliRunner().invoke(app, ["--data", str(tmp_path), "--nats", "nats://127.0.0.1:9", "doctor"])
    assert "no NATS server answers" in answer.stdout
    assert "cannot be looked at" not in answer.stdout
