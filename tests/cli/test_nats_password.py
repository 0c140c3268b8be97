"""A NATS server's user, password and token are for the server alone: nothing that people or logs see holds them."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from actors.connection import shown
from actors.nats_server import CONF
from cli import logs
from cli.app import app
from tests.support.cli_data import write_data
from tests.support.cli_process import leadline
from tests.support.nats import TestServer
from tests.support.projections_story import LeadStory, Story

NOBODY = "127.0.0.1:1"
LOGIN = "bob:s3cret@"
ONE_MESSAGE = '{"message_id": "m", "lead_id": "l", "business_id": "b", "intent": "ok", "confidence": 1}\n'


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("nats://bob:s3cret@host:4222", "nats://host:4222"),
        ("nats://s3cret@host", "nats://host"),
        ("tls://bob:s3/cr@et@host:4222/x", "tls://host:4222/x"),
        ("bob:s3cret@host:4222", "host:4222"),
        ("nats://bob:s3[cret@[::1]:4222", "nats://[::1]:4222"),
        ("nats://bob:s3\ncret@host", "nats://host"),
        ("nats://host:4222", "nats://host:4222"),
        ("host:4222", "host:4222"),
    ],
)
def test_a_url_is_shown_without_user_password_and_token(url: str, seen: str) -> None:
    assert shown(url) == seen


@pytest.mark.parametrize("command", ["status", "publish -", "doctor"])
def test_a_command_that_finds_no_server_says_where_and_not_who(tmp_path: Path, command: str) -> None:
    story = Story()
    LeadStory(story, "acme", "+49").whole("m1")
    write_data(tmp_path, story.recorded)
    done = asked(tmp_path, f"nats://{LOGIN}{NOBODY}", *command.split())
    assert done.exit_code == 1
    assert f"nats://{NOBODY}" in done.output
    assert "s3cret" not in done.output


def asked(folder: Path, url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["--data", str(folder), "--nats", url, *words], input=ONE_MESSAGE)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[TestServer]:
    conf = tmp_path / "guarded.conf"
    conf.write_text(f"{CONF.read_text()}\nauthorization {{ user: bob, password: s3cret }}\n")
    server = TestServer(tmp_path / "nats", conf=conf)
    server.start()
    yield server
    server.stop()


def test_a_server_that_lets_nobody_else_in_is_used_and_its_secret_is_not_shown(
    tmp_path: Path, guarded: TestServer
) -> None:
    host = guarded.url.removeprefix("nats://")
    right = f"nats://{LOGIN}{host}"
    ran = leadline("run", "--until-idle", "--http-port", "0", "--nats", right, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    doctor = asked(tmp_path / "data", right, "doctor")
    assert f"at nats://{host}" in doctor.output
    refused = asked(tmp_path / "data", f"nats://bob:wr0ng@{host}", "publish", "-")
    assert f"no NATS server can be used at nats://{host}: nats: 'Authorization Violation'" in refused.output
    said = ran.stdout + ran.stderr + doctor.output + refused.output
    assert "s3cret" not in said
    assert "wr0ng" not in said


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Terminal]:
    made = _Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure()
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_an_exception_that_is_logged_on_a_terminal_shows_no_variables(terminal: _Terminal) -> None:
    url = f"nats://{LOGIN}{NOBODY}"
    try:
        raise RuntimeError(len(url))
    except RuntimeError:
        logging.getLogger("nats").exception("it went wrong")
    assert "RuntimeError" in terminal.getvalue()
    assert "s3cret" not in terminal.getvalue()
