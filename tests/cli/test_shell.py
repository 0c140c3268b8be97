"""How every command behaves, whatever it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.app import app
from cli.shell import common_first, errors_in_one_line
from domain.errors import LeadlineError, SettingsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without settings and without data."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        (["tasks", "--data", "d"], ["--data", "d", "tasks"]),
        (["tasks", "--data=d", "--json"], ["--data=d", "tasks", "--json"]),
        (["--nats", "n", "publish", "f", "--config", "c"], ["--nats", "n", "--config", "c", "publish", "f"]),
        (["publish", "--", "--data"], ["publish", "--", "--data"]),
        (["tasks", "--data"], ["--data", "tasks"]),
    ],
)
def test_common_options_may_stand_anywhere(given: list[str], ordered: list[str]) -> None:
    assert common_first(given) == ordered


COMMANDS = [
    "up", "run", "publish", "demo", "rebuild", "doctor", "version", "status", "tasks", "leads", "metrics",
    "breakers", "dlq", "dlq list", "dlq show", "dlq retry", "dlq amend", "dlq resolve", "dlq discard", "lead",
    "lead show", "lead resume", "task", "task start", "task complete", "task cancel", "task reassign",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output


@pytest.mark.parametrize("query", ["tasks", "dlq", "leads", "metrics", "breakers", "status", "dlq show x"])
def test_a_question_before_there_is_anything_says_what_to_do_in_one_line(query: str) -> None:
    asked = CliRunner().invoke(app, query.split())
    assert asked.exit_code == 1
    assert asked.stdout == ""
    assert asked.stderr.count("\n") == 1
    assert "leadline up" in asked.stderr


def test_settings_that_cannot_be_used_are_wrong_use() -> None:
    Path("leadline.toml").write_text("[nats]\nprot = 1", encoding="utf-8")
    asked = CliRunner().invoke(app, ["tasks"])
    assert asked.exit_code == 2
    assert asked.stderr == "leadline: nats.prot: there is no such setting; did you mean port?\n"


def test_an_unknown_option_is_wrong_use() -> None:
    assert CliRunner().invoke(app, ["tasks", "--colour"]).exit_code == 2


@pytest.mark.parametrize("bad", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_published_is_named_in_one_line(bad: str) -> None:
    asked = CliRunner().invoke(app, ["publish", bad])
    assert asked.exit_code == 1
    assert asked.stderr.startswith(f"leadline: {bad}: ")
    assert asked.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (SettingsError("nats.url: bad"), 2, "nats.url: bad"),
        (LeadlineError("no such lead"), 1, "no such lead"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (PermissionError(13, "Permission denied", "/x/events.db"), 1, "/x/events.db: Permission denied"),
        (ValueError("of ours"), 1, "a fault in Leadline: ValueError: of ours"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_no_traceback(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, errors_in_one_line():
        raise error
    assert ended.value.exit_code == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "Traceback" not in told
