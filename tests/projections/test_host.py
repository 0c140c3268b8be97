"""The projector as a process of its own: what its parent has configured holds there too."""

from __future__ import annotations

import json
import multiprocessing
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from cli import logs
from domain.ports import EventLog
from projections.aside import Stopping
from projections.host import ProcessHost, project_in_process
from projections.projector import ProjectorSettings
from projections.queries import Views
from tests.support.eventually import eventually
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


def open_story() -> EventLog:
    story = Story()
    LeadStory(story).whole("m1")
    return MemoryLog(story.recorded)


def test_how_a_process_has_ended_is_told_as_its_signal_or_its_exit_code() -> None:
    host = ProcessHost("waiting", _wait)
    assert host.alive()
    [child] = [process for process in multiprocessing.active_children() if process.name == "leadline-waiting"]
    child.kill()
    child.join()
    assert (host.alive(), host.how_ended()) == (False, "its process was ended by SIGKILL")
    host.stop()
    host = ProcessHost("failing", _fail)
    eventually(lambda: not host.alive())
    assert host.how_ended() == "its process has ended with exit code 3"
    host.stop()


def _wait(_stop: Stopping) -> None:
    threading.Event().wait(60)


def _fail(_stop: Stopping) -> None:
    sys.exit(3)


def test_a_projector_in_a_process_of_its_own_logs_to_stderr_in_its_parents_form(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    views = tmp_path / "views.db"
    host = project_in_process(open_story, views, ProjectorSettings(), partial(logs.configure, verbose=True))
    try:
        eventually(lambda: views.exists() and Views(views).position().position == 5)
    finally:
        host.stop()
    said = capfd.readouterr()
    assert said.out == ""
    [line] = [json.loads(line) for line in said.err.splitlines()]
    assert (line["event"], line["level"]) == ("rebuilding the views: there are none", "warning")
