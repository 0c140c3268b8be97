"""A views database from zero, beside the one that serves: filled in large batches, its indexes made at the end.

Nothing is synchronised, since it is worth nothing before it is swapped in. Where there is much to fold,
the two parts of the views, which need nothing of each other, are folded at the same time: one here, one in a
process beside, whose rows are copied at the end.
"""

from __future__ import annotations

import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from domain.errors import LeadlineError, UnknownEventError
from domain.ports import EventLog
from projections.aside import Aside, Stopping
from projections.database import open_writer
from projections.fold import Fold, Part
from projections.schema import views_meta
from projections.store import ViewsPosition, ViewsStore, apply_up_to_trouble

#: Larger than the live ones: the more of a row's changes meet in memory, the fewer are written.
BATCH = 20_000
#: Fewer events than these are folded sooner than a process is started.
SMALL = 20_000

#: Called after each batch with how far the new views are and how far they have to go.
OnBuilt: TypeAlias = Callable[[int, int], None]
#: Opens a reader of the store; picklable.
OpenLog: TypeAlias = Callable[[], EventLog]


class RebuildStoppedError(LeadlineError):
    """The rebuild was told to stop before it had come to the end; the old views stand."""

    def __init__(self) -> None:
        super().__init__("the rebuild was stopped; the old views stand")


class Building(Struct, frozen=True):
    """How a rebuild is done."""

    batch: int = BATCH
    #: Position to stop at; by default the store's last when it begins.
    upto: int | None = None
    on_built: OnBuilt | None = None
    stop: Stopping | None = None
    #: For the process beside; without it all is folded here.
    open_log: OpenLog | None = None


def build(log: EventLog, path: Path, building: Building | None = None) -> ViewsPosition:
    """A new views database at `path`, all indexes made, closed.

    An event that cannot be read or applied ends it there, and stands in `stopped_error`. Raises
    `RebuildStoppedError`, and what the databases raise.
    """
    building = building or Building()
    if building.upto is None:
        building = msgspec.structs.replace(building, upto=log.last_position())
    if _worth_two_processes(building):
        position = _build_both(log, path, building)
        if position is not None:
            return position
    return _build_part(log, path, building, "all")


def fill(
    store: ViewsStore, log: EventLog, position: ViewsPosition, building: Building, part: Part = "all"
) -> ViewsPosition:
    """Fold the log's events from a position on."""
    fold = Fold(part)
    last = log.last_position() if building.upto is None else building.upto
    while position.position < last:
        if building.stop is not None and building.stop.is_set():
            raise RebuildStoppedError
        try:
            limit = min(building.batch, last - position.position)
            events = log.read(position.position, limit, fold.kinds)
        except UnknownEventError as error:
            return store.say_stopped(position, str(error))
        if events and events[-1].position > last:
            events = [recorded for recorded in events if recorded.position <= last]
        if not events:
            break
        position, trouble = apply_up_to_trouble(store, fold, events, position)
        if trouble is not None:
            return store.say_stopped(position, trouble)
        if building.on_built is not None:
            building.on_built(position.position, last)
    return position


def remove_database(path: Path) -> None:
    """Remove a database that nobody uses, with the files that SQLite keeps beside it."""
    for file in (path, *companions(path)):
        file.unlink(missing_ok=True)


def companions(path: Path) -> Iterator[Path]:
    """The files that SQLite keeps beside a database."""
    return (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def _worth_two_processes(building: Building) -> bool:
    enough = building.upto is not None and building.upto >= SMALL
    return enough and building.open_log is not None and len(os.sched_getaffinity(0)) > 1


def _build_part(log: EventLog, path: Path, building: Building, part: Part) -> ViewsPosition:
    remove_database(path)
    store = ViewsStore(open_writer(path, scratch=True))
    try:
        with _without_collections():
            position = fill(store, log, store.create(log.store_id(), indexes=False), building, part)
        if part == "all":
            store.create_indexes()
    finally:
        store.close()
    return position


def _build_both(log: EventLog, path: Path, building: Building) -> ViewsPosition | None:
    """Both parts at once; None where something stops one of them, which is said by building it all here."""
    other = path.with_name(f"{path.stem}.part{path.suffix}")
    beside = Aside("rebuild-part", _build_beside, building.open_log, other, building.batch, building.upto)
    try:
        _build_part(log, path, building, "work")
        if not beside.finish(building.stop):
            raise RebuildStoppedError
        failure = beside.failure()
        if failure is not None:
            raise OSError(f"the part of the rebuild that is made beside failed: {failure}")
        return _join(path, other)
    finally:
        beside.kill()
        remove_database(other)


def _build_beside(open_log: OpenLog, path: Path, batch: int, upto: int) -> None:
    log = open_log()
    try:
        _build_part(log, path, Building(batch, upto), "outcomes")
    finally:
        log.close()


def _join(path: Path, other: Path) -> ViewsPosition | None:
    """The rows of the other part into this database; where both stand, None where one is stopped."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("ATTACH ? AS beside", (str(other),))
        stopped = (
            "SELECT stopped_error FROM main.views_meta UNION SELECT stopped_error FROM beside.views_meta"
        )
        if any(why for (why,) in connection.execute(stopped)):
            return None
        connection.execute("DELETE FROM main.views_meta")
        for name in (*(rows.table.name for rows in Fold("outcomes").tables), views_meta.name):
            connection.execute(f"INSERT INTO main.{name} SELECT * FROM beside.{name}")  # noqa: S608  # our own
    store = ViewsStore(open_writer(path, scratch=True))
    try:
        store.create_indexes()
        return store.standing()
    finally:
        store.close()


@contextmanager
def _without_collections() -> Iterator[None]:
    """A fold makes no cycles, and the garbage collector looking for them takes an eighth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
