"""Views built in two processes at once are those built in one, whatever stops one of them."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain import events as ev
from projections import build as build_module
from projections.build import Building, RebuildStoppedError, build
from projections.compare import compare
from projections.fold import Fold, Part
from projections.queries import Views
from projections.store import ViewsPosition
from tests.support.projections_log import MemoryLog
from tests.support.projections_plausible import stories
from tests.support.projections_story import LeadStory, Story


def as_it_was(log: MemoryLog, folder: Path | None = None) -> MemoryLog:
    """A picklable factory: the process beside gets a copy, and leaves word that it was there."""
    if folder is not None:
        (folder / f"opened-by-{os.getpid()}").touch()
    return log


def nothing() -> MemoryLog:
    raise OSError("the store is out of reach")


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "SMALL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})


@pytest.fixture
def story() -> Story:
    story = Story()
    for lead in range(3):
        for n in range(3):
            LeadStory(story, lead=f"+{lead}").whole(f"m{n}")
    story.add("breaker:orders", ev.BreakerOpened("orders", 10, 5_000_000, story.now, 1, "too many"))
    return story


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def both(log: MemoryLog, path: Path) -> ViewsPosition:
    return build(log, path, Building(7, open_log=partial(as_it_was, log)))


def test_two_processes_make_the_rows_and_indexes_of_one(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    opened = Building(7, open_log=partial(as_it_was, log, folder))
    assert build(log, folder / "two.db", opened) == build(log, folder / "one.db", Building(7))
    rows, differences = compare(folder / "two.db", folder / "one.db")
    assert (rows > 30, differences) == (True, [])
    indexes = []
    for name in ("two.db", "one.db"):
        with closing(sqlite3.connect(folder / name)) as connection:
            sql = "SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
            indexes.append(connection.execute(sql).fetchall())
    assert indexes[0] == indexes[1]
    opened_by = [path.name for path in folder.glob("opened-by-*")]
    assert len(opened_by) == 1
    assert opened_by != [f"opened-by-{os.getpid()}"]
    assert sorted(path.name for path in folder.glob("*.db*")) == ["one.db", "two.db"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories(), batch=st.integers(1, 50))
def test_the_two_parts_need_nothing_of_each_other(story: Story, batch: int) -> None:
    log = MemoryLog(story.recorded)
    with tempfile.TemporaryDirectory() as name:
        whole, work, outcomes = (Path(name) / f"{part}.db" for part in ("all", "work", "outcomes"))
        upto = Building(batch, log.last_position())
        expected = build(log, whole, upto)
        build_module._build_part(log, work, upto, "work")
        build_module._build_part(log, outcomes, upto, "outcomes")
        assert build_module._join(work, outcomes) == expected
        assert compare(work, whole)[1] == []


def test_every_view_is_in_one_part() -> None:
    tables = [rows.table.name for part in ("work", "outcomes") for rows in Fold(part).tables]
    assert sorted(tables) == sorted(rows.table.name for rows in Fold().tables)


def test_where_one_part_is_stopped_the_views_stand_before_that_event(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    seen_beside_only = next(
        n for n, r in enumerate(story.recorded, 1) if isinstance(r.event, ev.IntentDetected)
    )
    for position in (seen_beside_only, len(story.recorded) - 2):
        log.corrupt = {position}
        built = both(log, folder / "two.db")
        assert (built.position, built.stopped_error is not None) == (position - 1, True)
        assert built == build(log, folder / "one.db", Building(7))
        assert compare(folder / "two.db", folder / "one.db")[1] == []


@pytest.mark.parametrize("stopped", ["work", "outcomes"])
def test_parts_are_not_joined_where_either_is_stopped(story: Story, folder: Path, stopped: str) -> None:
    log = MemoryLog(story.recorded)
    parts: dict[Part, Path] = {"work": folder / "work.db", "outcomes": folder / "outcomes.db"}
    for part, path in parts.items():
        build_module._build_part(log, path, Building(7, log.last_position()), part)
        if part == stopped:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE views_meta SET stopped_error = 'event 3 cannot be applied'")
    assert build_module._join(parts["work"], parts["outcomes"]) is None


def test_a_position_to_stop_at_holds_for_both(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    for upto in range(1, len(story.recorded)):
        if upto % 9:
            continue
        opened = Building(7, upto, open_log=partial(as_it_was, log))
        assert build(log, folder / "two.db", opened).position == upto
        build(log, folder / "one.db", Building(7, upto))
        assert compare(folder / "two.db", folder / "one.db")[1] == []


def test_what_ends_the_process_beside_is_said_here(story: Story, folder: Path) -> None:
    with pytest.raises(OSError, match="the store is out of reach"):
        build(MemoryLog(story.recorded), folder / "two.db", Building(7, open_log=nothing))
    assert [path.name for path in folder.glob("*part*")] == []


def test_a_stop_ends_both(story: Story, folder: Path) -> None:
    log = MemoryLog(story.recorded)
    stop = threading.Event()
    stop.set()
    with pytest.raises(RebuildStoppedError):
        build(log, folder / "two.db", Building(7, stop=stop, open_log=partial(as_it_was, log)))
    assert [path.name for path in folder.glob("*part*")] == []


def test_few_events_and_one_processor_take_one_process(
    story: Story, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog(story.recorded)
    opened = Building(7, open_log=partial(as_it_was, log, folder))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    build(log, folder / "two.db", opened)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(build_module, "SMALL", len(story.recorded) + 1)
    build(log, folder / "two.db", opened)
    assert list(folder.glob("opened-by-*")) == []
    assert Views(folder / "two.db").position().position == len(story.recorded)
