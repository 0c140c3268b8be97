"""The store's rows shown as they are, and one that stops something skipped, without a runner."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors.event_store import EventStore
from cli.app import app
from domain.errors import UnknownEventError
from domain.events import EventSkipped
from domain.skips import SKIPS_STREAM, Missing
from tests.support.cli_data import build_views, write_data
from tests.support.projections_story import LeadStory, Story

STREAM = "lead:acme:=2B49"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    story = Story()
    lead = LeadStory(story, "acme", "+49")
    for n in range(3):
        lead.whole(f"m{n}")
    return write_data(tmp_path / "data", story.recorded)


def do(data: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["--data", str(data), *args])


def asked(data: Path, *args: str) -> Any:
    answer = do(data, *args, "--json")
    assert answer.exit_code == 0, answer.stderr
    return json.loads(answer.stdout)


def change(data: Path, position: int, sql: str = "state = x'007b'") -> None:
    with closing(sqlite3.connect(data / "events.db")) as connection, connection:
        connection.execute(f"UPDATE stored_events SET {sql} WHERE rowid = ?", [position])


def skip(data: Path, position: int) -> Any:
    return do(data, "events", "skip", str(position), "--why", "a bad disk", "--by", "ann")


def test_of_a_sound_store_there_is_nothing_to_show(data: Path) -> None:
    assert asked(data, "events", "show") == []
    assert "every event can be read" in do(data, "events", "show").stdout


def test_an_event_is_shown_as_it_is_stored(data: Path) -> None:
    [event] = asked(data, "events", "show", "1")
    assert (event["position"], event["stream"], event["version"]) == (1, STREAM, 1)
    assert event["document"]["event"]["message_id"] == "m0"
    assert event["wrong"] == ""
    assert [row["position"] for row in asked(data, "events", "show", "--around", "7")] == list(range(2, 13))
    assert len(asked(data, "events", "show", "--lead", "acme", "+49")) == 15
    assert len(asked(data, "events", "show", "--stream", STREAM)) == 15


def test_an_unreadable_event_is_found_and_shown_as_far_as_it_can_be_made_out(data: Path) -> None:
    change(data, 4, """state = replace(state, '"action":', '"actiom":')""")
    change(data, 9)
    four, nine = asked(data, "events", "show")
    assert (four["position"], nine["position"]) == (4, 9)
    assert "action" in four["wrong"]
    assert four["document"]["event"]["actiom"] == "notify_sales"
    assert (nine["document"], nine["raw"]) == (None, "\x00{")
    assert "\x00" not in do(data, "events", "show", "9").stdout


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("show", "99"), 1, "there is no event 99; the store ends at 15"),
        (("show", "1", "--around", "2"), 2, "say one of"),
        (("show", "--stream", "breaker:none"), 1, "no such events"),
        (("skip", "1", "--why", "x"), 1, "can be read and stops nothing"),
        (("skip", "1", "--why", " "), 2, "say --why"),
        (("skip", "99", "--why", "x"), 1, "there is no event 99"),
    ],
)
def test_what_cannot_be_is_said(data: Path, words: tuple[str, ...], code: int, told: str) -> None:
    answer = do(data, "events", *words)
    assert (answer.exit_code, told in answer.stderr) == (code, True), answer.stderr


def test_a_skipped_event_stops_no_rebuild_and_the_decision_is_recorded(data: Path) -> None:
    change(data, 4)
    assert do(data, "rebuild").exit_code == 1
    said = skip(data, 4)
    assert said.exit_code == 0, said.stderr
    assert "leadline lead resume acme +49" in said.stdout
    assert do(data, "rebuild").exit_code == 0
    assert do(data, "rebuild", "--verify").exit_code == 0
    with closing(EventStore.open(data / "events.db")) as log:
        [decided] = log.stream(SKIPS_STREAM)
        assert isinstance(decided.event, EventSkipped)
        assert (decided.event.by, decided.event.why, decided.event.skipped) == ("ann", "a bad disk", 4)
        assert [type(r.event) is Missing for r in log.stream(STREAM)] == [n == 3 for n in range(15)]
        assert [r.version for r in log.stream(STREAM)] == list(range(1, 16))
    assert skip(data, 4).exit_code == 1
    [event] = asked(data, "events", "show")
    assert event["skipped"]
    assert "skipped" in do(data, "lead", "acme", "+49").stdout


def test_a_row_that_is_mended_after_it_was_skipped_is_read_again(data: Path) -> None:
    with closing(sqlite3.connect(data / "events.db")) as connection:
        [(whole,)] = connection.execute("SELECT state FROM stored_events WHERE rowid = 4")
    change(data, 4)
    skip(data, 4)
    with closing(sqlite3.connect(data / "events.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = ? WHERE rowid = 4", [whole])
    with closing(EventStore.open(data / "events.db")) as log:
        assert [r.position for r in log.read(0, 100)] == list(range(1, 17))
        assert Missing not in {type(r.event) for r in log.stream(STREAM)}


def test_only_the_event_that_was_skipped_is_left_out(data: Path) -> None:
    change(data, 4)
    skip(data, 4)
    change(data, 5)
    with closing(EventStore.open(data / "events.db")) as log:
        assert [r.position for r in log.read(0, 100)] == [1, 2, 3]
        with pytest.raises(UnknownEventError, match="event 5 "):
            log.read(3, 100)
        with pytest.raises(UnknownEventError, match="event 5 "):
            log.stream(STREAM)


def test_a_batch_that_is_skipped_whole_is_not_taken_for_the_end(data: Path) -> None:
    for position in (4, 5, 6):
        change(data, position)
        assert skip(data, position).exit_code == 0
    with closing(EventStore.open(data / "events.db")) as log:
        assert [r.position for r in log.read(3, 2)] == [7]


def test_an_event_that_can_be_read_and_stops_the_views_can_be_skipped(data: Path) -> None:
    change(data, 6, "originator_id = 'lead:nobody', originator_version = 1")
    assert do(data, "rebuild").exit_code == 1
    [event] = asked(data, "events", "show")
    assert (event["position"], event["stops_views"]) == (6, True)
    assert "cannot be applied" in event["wrong"]
    assert skip(data, 6).exit_code == 0
    assert do(data, "rebuild").exit_code == 0


def test_a_decision_that_cannot_be_read_is_none_and_can_itself_be_skipped(data: Path) -> None:
    change(data, 4)
    skip(data, 4)
    change(data, 16)
    assert do(data, "rebuild").exit_code == 1
    for position in (4, 16):
        assert skip(data, position).exit_code == 0
    assert do(data, "rebuild").exit_code == 0


def test_views_that_hold_what_was_damaged_later_are_said_to(data: Path) -> None:
    change(data, 4)
    assert "the views have taken it in before" in skip(data, 4).stdout
    build_views(data)


def test_views_whose_last_event_was_damaged_are_rebuilt_and_stop_before_it(data: Path) -> None:
    change(data, 15)
    with closing(EventStore.open(data / "events.db")) as log:
        assert log.event_id_at(15) == "unreadable"
