"""The questions, over a data folder as a runner leaves it; NATS is not asked."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli import options
from cli.app import app
from cli.output import table_of
from domain import events as ev
from tests.support.cli_data import write_data
from tests.support.projections_story import LeadStory, Story, rejected

LEAD = "+49 151/1"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    story = Story()
    lead = LeadStory(story, "acme", LEAD)
    lead.whole("m1")
    lead.add(lead.received("m2", "ORDER_REQUEST", text="\x1b[31mtwo boots"), lead.dead_lettered("m2"))
    other = LeadStory(story, "globex", "other")
    for n in range(60):
        other.whole(f"o{n}")
    story.add("rejects:3", rejected("r-1"))
    story.add("breaker:create_order", ev.BreakerOpened("create_order", 5, 5, story.now, 10, "refused"))
    return write_data(tmp_path / "data", story.recorded)


def ask(data: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["--data", str(data), *args])


def asked(data: Path, *args: str) -> Any:
    answer = ask(data, *args, "--json")
    assert answer.exit_code == 0, answer.stderr
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def test_tasks_are_filtered_by_whose_they_are(data: Path) -> None:
    assert len(asked(data, "tasks")) == 61
    [task] = asked(data, "tasks", "--business", "acme", "--lead", LEAD, "--status", "pending")
    assert (task["task_type"], task["assigned_to_id"], task["message_id"]) == (
        "sales_notification",
        "sales",
        "m1",
    )
    assert asked(data, "tasks", "--type", "lead_review") == []
    assert len(asked(data, "tasks", "--assigned-to", "sales", "--limit", "7")) == 7


def test_a_terminal_shows_the_first_rows_and_says_that_there_are_more(data: Path) -> None:
    answer = ask(data, "tasks")
    assert answer.stdout.count("sales_notification") == 50
    assert "and more" in answer.stderr
    assert "and more" not in ask(data, "tasks", "--limit", "55").stderr


def test_dead_letters_are_listed_by_default_and_shown_whole_by_id(data: Path) -> None:
    rows = asked(data, "dlq")
    assert rows == asked(data, "dlq", "list")
    assert {row["category"] for row in rows} == {"action_failed", "rejected"}
    [row] = asked(data, "dlq", "--category", "rejected")
    assert asked(data, "dlq", "show", row["id"]) == row
    assert "not JSON" in ask(data, "dlq", "show", row["id"]).stdout


def test_a_dead_letter_that_is_not_there_is_said(data: Path) -> None:
    answer = ask(data, "dlq", "show", "nope")
    assert (answer.exit_code, answer.stdout) == (1, "")
    assert "there is no dead letter nope" in answer.stderr


def test_a_lead_is_told_as_a_story_without_what_a_stranger_wrote_to_the_terminal(data: Path) -> None:
    answer = ask(data, "lead", "acme", LEAD)
    assert answer.exit_code == 0
    assert "wrote m1: “how much?”" in answer.stdout
    assert "m2 is a dead letter (action_failed)" in answer.stdout
    assert "refused (failed): not JSON" in answer.stdout
    assert "\x1b" not in answer.stdout


def test_a_leads_events_are_also_json(data: Path) -> None:
    document = asked(data, "lead", "show", "acme", LEAD)
    assert document["stream"] == "lead:acme:=2B49=20151=2F1"
    assert [event["event"] for event in document["events"]][:2] == ["MessageReceived", "IntentDetected"]
    assert len(document["dead_letters"]) == 2


def test_a_lead_that_never_wrote_is_said(data: Path) -> None:
    answer = ask(data, "lead", "acme", "nobody")
    assert answer.exit_code == 1
    assert "acme has no lead 'nobody'" in answer.stderr
    for business in ("acme", "no-business"):
        answer = ask(data, "lead", "show", business, "nobody", "--json")
        assert (answer.exit_code, json.loads(answer.stdout)["events"]) == (1, [])
        assert f"{business} has no lead 'nobody'" in answer.stderr
        assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("question", "allowed"),
    [
        ("tasks --status done", "pending, in_progress, completed or cancelled"),
        ("dlq --status open", "failed, retrying, resolved or discarded"),
        ("dlq list --category oops", "rejected, handler_failed, "),
    ],
)
def test_a_word_that_no_row_can_have_is_wrong_use_and_not_an_empty_answer(
    data: Path, question: str, allowed: str
) -> None:
    answer = ask(data, *question.split(), "--json")
    assert (answer.exit_code, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
    assert allowed in answer.stderr


def test_every_word_that_a_row_can_have_is_taken(data: Path) -> None:
    for status in options.TASK_STATUSES:
        asked(data, "tasks", "--status", status)
    for status in options.DEAD_LETTER_STATUSES:
        asked(data, "dlq", "--status", status)
    for category in options.CATEGORIES:
        asked(data, "dlq", "--category", category)


def test_leads_metrics_and_breakers_are_rows_of_their_views(data: Path) -> None:
    assert [row["lead_id"] for row in asked(data, "leads", "--business", "acme")] == [LEAD]
    [received] = [row for row in asked(data, "metrics", "--name", "whatsapp_messages_received_total")
                  if row["labels"] == {"business": "globex"}]  # fmt: skip
    assert received["value"] == 60
    assert [(row["name"], row["state"]) for row in asked(data, "breakers")] == [("create_order", "open")]


@pytest.mark.parametrize("query", ["tasks", "dlq", "leads", "metrics", "breakers", "lead acme other"])
def test_every_question_has_a_table_too(data: Path, query: str) -> None:
    answer = ask(data, *query.split())
    assert answer.exit_code in (0, 1)
    assert "Traceback" not in answer.output


def test_the_data_folder_may_be_named_after_the_command(data: Path) -> None:
    answer = CliRunner().invoke(app, ["leads", "--json", f"--data={data}"])
    assert len(json.loads(answer.stdout)) == 2


def test_a_corrupt_event_is_named_in_one_line(data: Path) -> None:
    with sqlite3.connect(data / "events.db") as store:
        store.execute("UPDATE stored_events SET state = substr(state, 1, 40) WHERE rowid = 2")
    answer = ask(data, "lead", "acme", LEAD)
    assert answer.exit_code == 1
    assert (
        "event 2 (intent_detected.v1, version 2 of lead:acme:=2B49=20151=2F1) cannot be read" in answer.stderr
    )
    assert answer.stderr.count("\n") == 1


def test_a_rebuild_says_how_far_it_came(data: Path) -> None:
    before = asked(data, "tasks")
    (data / "views.db").unlink()
    built = ask(data, "rebuild")
    assert built.exit_code == 0
    assert "built anew up to event" in built.stdout
    assert asked(data, "tasks") == before


@pytest.mark.parametrize("width", [60, 80, 200])
def test_an_id_stands_on_one_line_however_narrow_the_terminal_is(data: Path, width: int) -> None:
    rows = asked(data, "tasks", "--limit", "3")
    written = io.StringIO()
    screen = Console(file=written, width=width)
    screen.print(
        table_of("tasks", rows, ("task_id", "task_type", "status", "due_date", "business_id", "lead_id"))
    )
    lines = written.getvalue().splitlines()
    assert all(sum(row["task_id"] in line for line in lines) == 1 for row in rows)
