"""Dead letters by cause, and which of them a retry would touch; NATS is not asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cli import causes, dead_letters
from cli.app import app
from cli.redrive import Pace, Redrive
from domain.commands import RetryDeadLetter
from projections.queries import Views
from tests.support.cli_data import write_data
from tests.support.projections_story import LeadStory, Story, rejected

NO_SERVER = "nats://127.0.0.1:9"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    story = Story()
    for lead_id, business, category, errors in (
        ("+1", "foods", "action_failed", ["the target answered 500", "the target answered 503 after 12 s"]),
        ("+2", "deli", "action_failed", ["the target answered 500"]),
        ("+3", "deli", "outcome_unknown", ["timeout"]),
    ):
        lead = LeadStory(story, business, lead_id)
        for n, error in enumerate(errors):
            letter = lead.dead_lettered(f"m{n}", category)  # type: ignore[arg-type]
            lead.add(lead.received(f"m{n}"), msgspec.structs.replace(letter, error=error))
    story.add("rejects:3", rejected("r-1"))
    return write_data(tmp_path / "data", story.recorded)


def do(data: Path, *args: str, given: str = "") -> Any:
    return CliRunner().invoke(app, ["--data", str(data), "--nats", NO_SERVER, *args], input=given)


def chosen(data: Path, *filters: str) -> Any:
    answer = do(data, "dlq", "retry", "--dry-run", "--json", *filters)
    assert answer.exit_code == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the target answered 500", "the target answered 503"),
        ("order 'abc' is gone", "order 'x y' is gone"),
        ('unknown business "a"', 'unknown business "b"'),
        ("no customer wamid.HBg1=", "no customer wamid.Qx9="),
        ("at 2026-11-02T08:00:00Z: no", "at 2027-01-01T00:00:00Z: no"),
        ("no task 6f1e0f8e-14a4-5c39-9d9e-0a3d4e8f1a2b", "no task 0b7e0f8e-14a4-5c39-9d9e-0a3d4e8f1a2c"),
        ("a  b\nc", "a b c"),
    ],
)
def test_errors_that_differ_in_numbers_ids_and_quoted_parts_have_one_cause(one: str, other: str) -> None:
    assert causes.cause(one) == causes.cause(other)


@pytest.mark.parametrize(
    ("one", "other"), [("the target answered", "the target refused"), ("it's gone", "it's here")]
)
def test_errors_that_say_something_else_have_another_cause(one: str, other: str) -> None:
    assert causes.cause(one) != causes.cause(other)


def test_dead_letters_are_grouped_by_cause_with_their_count_and_their_businesses(data: Path) -> None:
    answer = do(data, "dlq", "groups", "--json")
    rows = json.loads(answer.stdout)
    assert (rows[0]["category"], rows[0]["count"]) == ("action_failed", 2)
    assert rows[0]["businesses"] == ["deli", "foods"]
    assert rows[0]["cause"] == "the target answered #"
    assert sum(row["count"] for row in rows) == 5
    assert "the target answered #" in do(data, "dlq", "groups").stdout


def test_a_dry_run_says_how_many_a_filter_would_touch_and_what_it_leaves_out(data: Path) -> None:
    everything = chosen(data, "--all")
    assert (everything["selected"], everything["left_out"]) == (4, {"outcome_unknown": 1})
    assert chosen(data, "--business", "deli")["selected"] == 1
    assert chosen(data, "--category", "rejected")["selected"] == 1
    assert chosen(data, "--error", "AFTER 12")["selected"] == 1
    [group] = {row["group"] for row in json.loads(do(data, "dlq", "groups", "--json").stdout)[:1]}
    assert chosen(data, "--group", group)["selected"] == 2
    assert "4 dead letters of 3 leads" in do(data, "dlq", "retry", "--all", "--dry-run").stdout


def test_a_group_that_is_none_is_no_empty_choice(data: Path) -> None:
    answer = do(data, "dlq", "retry", "--group", "zzzzzzzz", "--dry-run")
    assert answer.exit_code == 1
    assert "no open dead letter is of group zzzzzzzz; `leadline dlq groups` lists them" in answer.stderr


def test_age_is_that_of_the_last_change(data: Path) -> None:
    assert chosen(data, "--older-than", "90000d")["selected"] == 0
    assert chosen(data, "--newer-than", "99999d")["selected"] == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "say which"),
        (("x", "--all"), "ids or a filter, not both"),
        (("--all",), "say --yes"),
        (("--older-than", "soon"), "90s, 15m, 2h or 3d"),
        (("--command-id", "c", "--all", "--yes"), "give one ID"),
    ],
)
def test_a_retry_that_does_not_say_which_is_wrong_use(data: Path, words: tuple[str, ...], told: str) -> None:
    answer = do(data, "dlq", "retry", *words)
    assert (answer.exit_code, told in answer.stderr) == (2, True), answer.stderr


def test_on_a_terminal_it_asks_and_a_no_does_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "is_terminal", lambda: True)
    answer = do(data, "dlq", "retry", "--all", given="n\n")
    assert answer.exit_code == 1
    assert "nothing was done" in answer.stderr
    assert "4 dead letters of 3 leads" in answer.stderr
    assert "no NATS server" not in answer.stderr


def test_where_nothing_matches_there_is_nothing_to_do(data: Path) -> None:
    answer = do(data, "dlq", "retry", "--business", "nobodys", "--yes")
    assert (answer.exit_code, answer.stdout) == (0, "nothing to do\n")


def test_a_redrive_is_stopped_by_what_goes_wrong_in_a_row_alone(tmp_path: Path) -> None:
    def make(dead_letter_id: str) -> RetryDeadLetter:
        return RetryDeadLetter(command_id="c", by="ann", dead_letter_id=dead_letter_id)

    letters = [{"id": str(n)} for n in range(5)]
    redrive = Redrive(letters, Views(tmp_path / "views.db"), lambda: 0, make, Pace(stop_after=2))
    for name, outcome in zip("0123", ("failed", "completed", "refused", "completed"), strict=True):
        redrive._ends(redrive.results[name], outcome, "")  # type: ignore[arg-type]
    assert redrive.stopped is None
    redrive._ends(redrive.results["3"], "failed", "one")
    redrive._ends(redrive.results["4"], "refused", "another")
    assert redrive.stopped == "2 in a row went wrong, the last: another"
