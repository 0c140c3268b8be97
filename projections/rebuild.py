"""Views built anew beside the ones that serve, and swapped in whole; or compared with them.

The swap of `views.next.db` is one SQLite transaction (the backup API copies it into `views.db`): readers see
the old views or the new ones, a kill at any moment leaves one of them, and no file is replaced under
a reader. Where there is no sound `views.db`, the file is renamed into its place.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from domain.errors import LeadlineError
from domain.ports import EventLog
from projections.aside import Stopping
from projections.build import (
    BATCH,
    Building,
    OnBuilt,
    OpenLog,
    build,
    companions,
    fill,
    remove_database,
)
from projections.compare import Difference, compare
from projections.database import BUSY_MS, file_of, open_writer
from projections.queries import Views
from projections.store import ViewsPosition, ViewsStore, doubt


class RebuildBusyError(LeadlineError):
    """Another rebuild of the same views is under way."""


class Verification(Struct, frozen=True):
    """What `verify` found: at which event both stood, how many rows were compared, what differs."""

    position: int
    rows: int
    differences: list[Difference]
    #: Why the live views stand there and do not go on: what comes after is compared with nothing.
    stopped_error: str | None = None


def rebuild(
    log: EventLog,
    views: str | Path,
    *,
    batch: int = BATCH,
    on_built: OnBuilt | None = None,
    stop: Stopping | None = None,
    open_log: OpenLog | None = None,
) -> ViewsPosition:
    """Build the views anew up to the store's last event, and put them in the place of the old ones.

    An event that cannot be read or applied ends the building before it, and stands in `stopped_error`.
    With `open_log`, which is picklable, a process beside does its part where there is much to fold.
    Raises `RebuildBusyError`, `RebuildStoppedError`, and what the databases raise.
    """
    building = Building(batch, None, on_built, stop, open_log)
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
    log: EventLog,
    views: str | Path,
    *,
    batch: int = BATCH,
    on_built: OnBuilt | None = None,
    open_log: OpenLog | None = None,
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
            built = build(log, beside, Building(batch, position.position, on_built, None, open_log))
            if built.stopped_error is not None:
                raise LeadlineError(f"the views cannot be rebuilt: {built.stopped_error}")
            rows, differences = compare(copy, beside)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise LeadlineError(
                f"the live views cannot be read: {error}; `leadline rebuild` makes them anew"
            ) from error
        finally:
            remove_database(copy)
            remove_database(beside)
    return Verification(position.position, rows, differences, position.stopped_error)


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
    for leftover in companions(live):
        leftover.unlink(missing_ok=True)
    _sync(built)
    built.replace(live)
    _sync(live.parent)


@contextmanager
def one_at_a_time(live: Path, what: str) -> Iterator[None]:
    """One of its kind at a time for these views; the lock dies with its process. Raises `RebuildBusyError`."""
    with live.with_name(f"{live.stem}.{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RebuildBusyError(f"another {what} of these views is under way") from None
        yield


def _rebuild_in_place(log: EventLog, views: str | Path, building: Building) -> ViewsPosition:
    """Without a file there is no beside yet: the tables are dropped and filled again."""
    store = ViewsStore(open_writer(views))
    try:
        return fill(store, log, store.clear(log.store_id()), building)
    finally:
        store.close()


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
