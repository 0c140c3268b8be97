"""What is wrong with how Leadline is used is one line that says what to do, with 2; it is no fault in Leadline."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from tests.support.cli_data import write_data
from tests.support.cli_process import command_line, environment
from tests.support.projections_story import LeadStory, Story

WRONG = 2


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a lead and a task whose ids are not ASCII."""
    story = Story()
    LeadStory(story, "acme-foods", "Jürgen").whole("grüße")
    return write_data(tmp_path / "data", story.recorded)


def in_shell(line: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`LEADLINE` in the line is the command."""
    words = " ".join(shlex.quote(word) for word in command_line())
    return subprocess.run(
        ["bash", "-c", line.replace("LEADLINE", words)],
        cwd=cwd,
        env=environment() | variables,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("tasks", "--limit", "99999999999999999999"),
        ("events", "show", "99999999999999999999"),
        ("events", "show", "--around", "99999999999999999999"),
        ("dlq", "retry", "--all", "--first", "99999999999999999999"),
        ("dlq", "retry", "--all", "--wait", "1e300"),
        ("dlq", "retry", "--all", "--rate", "inf"),
        ("dlq", "retry", "--all", "--rate", "nan"),
        ("task", "start", "x", "--timeout", "1e300"),
        ("status", "--wait-idle", "--timeout", "inf"),
    ],
)
def test_a_number_beyond_all_measure_is_refused(data: Path, words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["--data", str(data), *words])
    assert done.exit_code == WRONG
    assert f"Invalid value for '{'[POSITION]' if words[-2] == 'show' else words[-2]}'" in done.stderr


@pytest.mark.parametrize("command", ["lead acme-foods", "dlq show", "tasks --lead", "task start"])
def test_an_id_that_is_not_utf8_is_said_to_be_none(data: Path, command: str) -> None:
    done = in_shell(f"LEADLINE {command} $'a\\xff'", data.parent)
    assert done.returncode == WRONG
    assert done.stderr == b"leadline: 'a\\udcff' is not UTF-8: give ids and texts in UTF-8\n"


def test_a_payload_that_is_not_utf8_is_said_to_be_none(data: Path) -> None:
    done = in_shell("printf 'ab\\xff' | LEADLINE dlq amend some-id --why x --payload -", data.parent)
    assert done.returncode == WRONG
    assert done.stderr == b"leadline: --payload -: not UTF-8 at byte 2: give the body as JSON in UTF-8\n"


@pytest.mark.parametrize("command", ["publish -", "dlq amend some-id --why x --payload -"])
def test_a_closed_standard_input_is_said(data: Path, command: str) -> None:
    done = in_shell(f"LEADLINE {command} <&-", data.parent)
    assert done.returncode == WRONG
    said = b"leadline: standard input is closed: name a file instead of -, or pipe the text in\n"
    assert done.stderr == said


@pytest.mark.parametrize("command", ["tasks", "doctor", "up --until-idle", "tasks --json"])
def test_a_closed_standard_output_is_said(data: Path, command: str) -> None:
    done = in_shell(f"LEADLINE {command} >&-", data.parent)
    assert done.returncode == WRONG
    assert done.stderr.startswith(b"leadline: standard output is closed: leave it open, or send it to a file")
    assert done.stderr.count(b"\n") == 1


def test_with_all_streams_closed_no_file_of_ours_takes_the_place_of_one(data: Path) -> None:
    assert in_shell("LEADLINE tasks <&- >&- 2>&-", data.parent).returncode == WRONG
    asked = in_shell("LEADLINE tasks --json <&- 2>&-", data.parent)
    assert asked.returncode == 0
    assert len(json.loads(asked.stdout)) > 0


#: Of a server that is not there, whatever runs on this machine.
_DOCTOR = "--nats nats://127.0.0.1:9 doctor"


@pytest.mark.parametrize("command", ["leads", "tasks", "dlq", "lead acme-foods Jürgen", _DOCTOR, "--help"])
def test_where_the_output_takes_ascii_alone_everything_else_is_written_as_escapes(
    data: Path, command: str
) -> None:
    ascii_alone = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = in_shell(f"LEADLINE {command}", data.parent, **ascii_alone)
    assert done.returncode == (1 if command == _DOCTOR else 0), done
    assert b"fault" not in done.stderr
    assert done.stdout.isascii()
    if "lead" in command:
        assert b"J\\xfcrgen" in done.stdout


def test_a_json_document_is_the_same_where_the_output_takes_ascii_alone(data: Path) -> None:
    ascii_alone = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = in_shell("LEADLINE leads --json", data.parent, **ascii_alone)
    assert done.stdout.isascii()
    assert [row["lead_id"] for row in json.loads(done.stdout)] == ["Jürgen"]


MODULES = {
    "import sys\nsys.exit(0)": "it ends the process (sys.exit(0)) when it is",
    "1 / 0": "division by zero",
    "EXECUTORS = 3": "EXECUTORS is not a list of Executor",
    "EXECUTOR = 3": "EXECUTOR is not an Executor",
    "HANDLERS = 3": "HANDLERS is not a list of IntentHandler",
    "HANDLERS = [3]": "HANDLER is not an IntentHandler",
    "from domain.intents.handler import IntentHandler\n"
    "HANDLER = IntentHandler('GREETING', 'plan', 'high')": "a priority (a whole number)",
    "from actors.executors.executor import Executor\n"
    "EXECUTOR = Executor('spec', 'a', 'b', print, print)": "an ActionSpec as spec",
}


SEEN_BY_DOCTOR = ("import sys\nsys.exit(0)", "EXECUTORS = 3")


@pytest.mark.parametrize("text", MODULES)
def test_a_module_that_is_none_is_a_setting_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    (tmp_path / "own.toml").write_text("modules = ['mine']\n[tenants.acme]\nbusinesses = ['acme-foods']")
    command = "LEADLINE --config own.toml up --until-idle --nats-port 0 --http-port 0"
    done = in_shell(command, tmp_path)
    [line] = done.stderr.decode().splitlines()
    assert done.returncode == WRONG, line
    assert line.startswith("leadline: modules: mine")
    assert MODULES[text] in line
    if text not in SEEN_BY_DOCTOR:
        return
    examined = in_shell("LEADLINE --config own.toml doctor", tmp_path)
    assert examined.returncode == 1
    assert MODULES[text] in examined.stdout.decode()


def test_a_module_lies_beside_the_settings_wherever_the_command_is_given(tmp_path: Path) -> None:
    settings, elsewhere = tmp_path / "settings", tmp_path / "elsewhere"
    settings.mkdir()
    elsewhere.mkdir()
    (settings / "own.toml").write_text("modules = ['mine']\n[tenants.acme]\nbusinesses = ['acme-foods']")
    command = "LEADLINE --config ../settings/own.toml up --until-idle --nats-port 0 --http-port 0"
    missing = in_shell(command, elsewhere)
    assert missing.returncode == WRONG
    assert b"No module named 'mine' beside the settings, or among what is installed" in missing.stderr
    (settings / "mine.py").write_text("HANDLERS = []")
    assert in_shell(command, elsewhere).returncode == 0
