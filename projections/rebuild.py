"""Views from zero: built beside the ones that serve, and swapped in whole.

`views.next.db` is filled with indexes made at the end and nothing synchronised, since it is worth nothing
before the swap. The swap is one SQLite transaction (the backup API copies it into `views.db`): readers see
the old views or the new ones, a kill at any moment leaves one of them, and no file is replaced under
a reader. Where there is no sound `views.db`, the file is renamed into its place.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from domain.errors import LeadlineError, UnknownEventError
from domain.ports import EventLog
from projections.compare import Difference, compare
from projections.database import BUSY_MS, file_of, open_writer
from projections.fold import Fold
from projections.queries import Views
from projections.store import ViewsPosition, ViewsStore, apply_up_to_trouble, doubt

#: Larger than the live ones: the more of a row's changes meet in memory, the fewer are written.
BATCH = 20_000

#: Called after each batch with how far the new views are and how far they have to go.
OnBuilt = Callable[[int, int], None]


class RebuildBusyError(LeadlineError):
    """Another rebuild of the same views is under way."""


class RebuildStoppedError(LeadlineError):
    """The rebuild was told to stop before it had come to the end; the old views stand."""


class Verification(Struct, frozen=True):
    """What `verify` found: at which event both stood, how many rows were compared, what differs."""

    position: int
    rows: int
    differences: list[Difference]
    #: Why the live views stand there and do not go on: what comes after is compared with nothing.
    stopped_error: str | None = None


class Building(Struct, frozen=True):
    """How a rebuild is done."""

    batch: int = BATCH
    #: Position to stop at; by default the store's last when it begins.
    upto: int | None = None
    on_built: OnBuilt | None = None
    stop: Stopping | None = None


class Stopping(Protocol):
    """What `threading.Event` and `multiprocessing.Event` have in common here."""

    def is_set(self) -> bool: ...


def rebuild(
    log: EventLog,
    views: str | Path,
    *,
    batch: int = BATCH,
    on_built: OnBuilt | None = None,
    stop: Stopping | None = None,
) -> ViewsPosition:
    """Build the views anew up to the store's last event, and put them in the place of the old ones.

    An event that cannot be read or applied ends the building before it, and stands in `stopped_error`.
    Raises `RebuildBusyError`, `RebuildStoppedError`, and what the databases raise.
    """
    building = Building(batch, None, on_built, stop)
    live = file_of(views)
    if live is None:
        return _rebuild_in_place(log, views, building)
    live.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(live, "rebuild"):
        beside = _beside(live, "next")
        try:
            position = build(log, beside, building)
            swap(beside, live)
        finally:
            remove_database(beside)
    return position


def verify(
    log: EventLog, views: str | Path, *, batch: int = BATCH, on_built: OnBuilt | None = None
) -> Verification:
    """Compare the live views with views built from zero, at one position: that of a copy of the live ones.

    The live ones are read once, for the copy, in one transaction that holds up nobody. Raises `LeadlineError`
    where there is nothing to compare.
    """
    live = file_of(views)
    if live is None:
        raise LeadlineError("only views in a file can be compared with rebuilt ones")
    position = Views(live).position()
    why = doubt(position, log)
    if why is not None:
        raise LeadlineError(f"the live views are not this store's: {why}; `leadline rebuild` mends that")
    with one_at_a_time(live, "verify"):
        copy, beside = _beside(live, "copy"), _beside(live, "verify")
        try:
            _copy(live, copy)
            position = Views(copy).position()
            built = build(log, beside, Building(batch, position.position, on_built))
            if built.stopped_error is not None:
                raise LeadlineError(f"the views cannot be rebuilt: {built.stopped_error}")
            rows, differences = compare(copy, beside)
        finally:
            remove_database(copy)
            remove_database(beside)
    return Verification(position.position, rows, differences, position.stopped_error)


def build(log: EventLog, path: Path, building: Building | None = None) -> ViewsPosition:
    """A new views database at `path`, all indexes made, closed."""
    remove_database(path)
    store = ViewsStore(open_writer(path, scratch=True))
    try:
        with _without_collections():
            position = _fill(store, log, store.create(log.store_id(), indexes=False), building or Building())
        store.create_indexes()
    finally:
        store.close()
    return position


def swap(built: Path, live: Path) -> None:
    """Put a finished database in the place of the live one. Safe against a kill at any point."""
    if live.exists():
        try:
            with (
                closing(sqlite3.connect(built)) as source,
                closing(sqlite3.connect(live, timeout=BUSY_MS / 1000)) as target,
            ):
                source.backup(target)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            pass  # what stands there is no database any more: nobody can be reading it
        else:
            return
    for leftover in _companions(live):
        leftover.unlink(missing_ok=True)
    _sync(built)
    built.replace(live)
    _sync(live.parent)


def remove_database(path: Path) -> None:
    """Remove a database that nobody uses, with the files that SQLite keeps beside it."""
    for file in (path, *_companions(path)):
        file.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(live: Path, what: str) -> Iterator[None]:
    """One of its kind at a time for these views; the lock dies with its process. Raises `RebuildBusyError`."""
    with live.with_name(f"{live.stem}.{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RebuildBusyError(f"another {what} of these views is under way") from None
        yield


def _fill(store: ViewsStore, log: EventLog, position: ViewsPosition, building: Building) -> ViewsPosition:
    fold = Fold()
    last = log.last_position() if building.upto is None else building.upto
    while position.position < last:
        if building.stop is not None and building.stop.is_set():
            raise RebuildStoppedError("the rebuild was stopped; the old views stand")
        try:
            events = log.read(position.position, building.batch)
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


def _rebuild_in_place(log: EventLog, views: str | Path, building: Building) -> ViewsPosition:
    """Without a file there is no beside yet: the tables are dropped and filled again."""
    store = ViewsStore(open_writer(views))
    try:
        return _fill(store, log, store.clear(log.store_id()), building)
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


def _copy(live: Path, copy: Path) -> None:
    remove_database(copy)
    with (
        closing(
            sqlite3.connect(f"{live.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_MS / 1000)
        ) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")


def _beside(live: Path, what: str) -> Path:
    return live.with_name(f"{live.stem}.{what}{live.suffix}")


def _companions(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
