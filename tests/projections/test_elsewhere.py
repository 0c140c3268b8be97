"""A rebuild beside actors is done in another process, and its failures come back in words [H27]."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from domain.ports import EventLog
from projections import elsewhere
from projections.build import RebuildStoppedError
from projections.elsewhere import rebuild_elsewhere
from projections.queries import Views
from projections.rebuild import one_at_a_time
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


def open_story(folder: Path) -> EventLog:
    """A picklable factory; leaves a file that says in which process it was opened last."""
    import os  # noqa: PLC0415  # the module is imported anew in the other process

    with (folder / "opened-by").open("a") as opened:
        opened.write(f"{os.getpid()}\n")
    story = Story()
    LeadStory(story).whole("m1")
    return MemoryLog(story.recorded)


@pytest.fixture
def _large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "SMALL", 0)


def processes(folder: Path) -> int:
    return len(set((folder / "opened-by").read_text().split()))


def test_few_events_are_folded_here(tmp_path: Path) -> None:
    rebuild_elsewhere(partial(open_story, tmp_path), tmp_path / "views.db", threading.Event())
    assert Views(tmp_path / "views.db").position().position == 5
    assert processes(tmp_path) == 1


@pytest.mark.usefixtures("_large")
def test_many_events_are_folded_in_another_process(tmp_path: Path) -> None:
    rebuild_elsewhere(partial(open_story, tmp_path), tmp_path / "views.db", threading.Event())
    assert Views(tmp_path / "views.db").position().position == 5
    assert processes(tmp_path) == 2


@pytest.mark.usefixtures("_large")
def test_what_went_wrong_there_is_said_here(tmp_path: Path) -> None:
    with (
        one_at_a_time(tmp_path / "views.db", "rebuild"),
        pytest.raises(OSError, match="another rebuild of these views is under way"),
    ):
        rebuild_elsewhere(partial(open_story, tmp_path), tmp_path / "views.db", threading.Event())


@pytest.mark.usefixtures("_large")
def test_a_stop_ends_the_other_process(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(RebuildStoppedError):
        rebuild_elsewhere(partial(open_story, tmp_path), tmp_path / "views.db", stop)
