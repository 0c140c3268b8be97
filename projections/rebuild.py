"""Views from zero: built beside the ones that serve, and swapped in whole.

`views.next.db` is filled with indexes made at the end and nothing synchronised, since it is worth nothing
before the swap. The swap is one SQLite transaction (the backup API copies it into `views.db`): readers see
the old views or the new ones, a kill at any moment leaves one of them, and no file is replaced under
a reader. Where there is no sound `views.db`, the file is renamed into its place.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from domain.errors import LeadlineError, UnknownEventError
from domain.ports import EventLog
from projections.database import BUSY_MS, file_of, open_writer
from projections.fold import Fold
from projections.store import ViewsPosition, ViewsStore, apply_up_to_trouble

BATCH = 10_000

#: Called after each batch with how far the new views are and how far they have to go.
OnBuilt = Callable[[int, int], None]


class RebuildBusyError(LeadlineError):
    """Another rebuild of the same views is under way."""


class RebuildStoppedError(LeadlineError):
    """The rebuild was told to stop before it had come to the end; the old views stand."""


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
    live = file_of(views)
    if live is None:
        return _rebuild_in_place(log, views, batch=batch, on_built=on_built, stop=stop)
    live.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(live):
        beside = live.with_name(f"{live.stem}.next{live.suffix}")
        try:
            standing = build(log, beside, batch=batch, on_built=on_built, stop=stop)
            swap(beside, live)
        finally:
            remove_database(beside)
    return standing


def build(
    log: EventLog,
    path: Path,
    *,
    upto: int | None = None,
    batch: int = BATCH,
    on_built: OnBuilt | None = None,
    stop: Stopping | None = None,
) -> ViewsPosition:
    """A new views database at `path`, with the events up to a position (by default all there are)."""
    remove_database(path)
    store = ViewsStore(open_writer(path, scratch=True))
    try:
        standing = store.create(log.store_id(), indexes=False)
        standing = _fill(store, log, standing, upto=upto, batch=batch, on_built=on_built, stop=stop)
        store.create_indexes()
    finally:
        store.close()
    return standing


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
def one_at_a_time(live: Path) -> Iterator[None]:
    """One rebuild of these views at a time; the lock dies with its process. Raises `RebuildBusyError`."""
    with live.with_name(f"{live.stem}.rebuild.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RebuildBusyError("another rebuild of these views is under way") from None
        yield


def _fill(
    store: ViewsStore,
    log: EventLog,
    standing: ViewsPosition,
    *,
    upto: int | None,
    batch: int,
    on_built: OnBuilt | None,
    stop: Stopping | None,
) -> ViewsPosition:
    fold = Fold()
    last = log.last_position() if upto is None else upto
    while standing.position < last:
        if stop is not None and stop.is_set():
            raise RebuildStoppedError("the rebuild was stopped; the old views stand")
        try:
            events = log.read(standing.position, batch)
        except UnknownEventError as error:
            return store.say_stopped(standing, str(error))
        if upto is not None:
            events = [recorded for recorded in events if recorded.position <= upto]
        if not events:
            break
        standing, trouble = apply_up_to_trouble(store, fold, events, standing)
        if trouble is not None:
            return store.say_stopped(standing, trouble)
        if on_built is not None:
            on_built(standing.position, last)
    return standing


def _rebuild_in_place(
    log: EventLog,
    views: str | Path,
    *,
    batch: int,
    on_built: OnBuilt | None,
    stop: Stopping | None,
) -> ViewsPosition:
    """Without a file there is no beside yet: the tables are dropped and filled again."""
    store = ViewsStore(open_writer(views))
    try:
        standing = store.clear(log.store_id())
        return _fill(store, log, standing, upto=None, batch=batch, on_built=on_built, stop=stop)
    finally:
        store.close()


def _companions(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "-journal"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
