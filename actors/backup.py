"""Copies of the event store: made beside a live runner, checked before they are believed, and put back.

Knows the store as a file. What an event means, and which messages follow on a restore, is not known here.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from domain import codec
from domain.errors import LeadlineError, UnknownEventError

STORE = "events.db"
#: Written last: a folder without one holds no backup, but what a backup that was cut off has left.
MANIFEST = "backup.json"
_FORMAT = 1
#: Pages copied between two calls of `on_copied`; some 16 MiB.
_PAGES = 2000
_BATCH = 10_000
#: Unreadable events told one by one.
_TOLD = 20

#: Called while it works: what is being done, how far, of how much.
OnStep = Callable[[str, int, int], None]


class Backup(Struct, frozen=True):
    """What a backup holds: `backup.json` beside the copy."""

    made_at: datetime
    store_id: str
    #: Position of the last event, its id, and when it was recorded.
    events: int
    last_event_id: str
    last_event_at: datetime | None
    #: Checkpointed positions by name: from there on the stream is read after a restore.
    positions: dict[str, int]
    size: int
    sha256: str
    #: Events that could not be read, in the copy as in the store it was made of.
    unreadable: tuple[str, ...] = ()
    format: int = _FORMAT


def back_up(events: Path, folder: Path, on_step: OnStep) -> Backup:
    """Copy the store at `events` into an empty or new folder, and check the copy. Holds up no writer.

    One read transaction spans the whole copy, so that a busy writer cannot make it begin anew; the store's
    write-ahead log grows meanwhile. Raises `LeadlineError`, OSError; nothing is left in the folder then.
    """
    if not events.exists():
        raise LeadlineError(f"{events}: there is no event store to back up")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise LeadlineError(f"{folder} is not empty: name a new folder for each backup")
    copy = folder / STORE
    try:
        _copy(events, copy, on_step)
        backup = _examined(copy, on_step)
        _write(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(backup)))
    except sqlite3.Error as error:
        _remove(folder)
        raise LeadlineError(f"{events} cannot be copied: {error}") from error
    except BaseException:
        _remove(folder)
        raise
    return backup


def check(folder: Path, on_step: OnStep) -> Backup:
    """The backup in a folder, once it is found whole. Raises `LeadlineError` saying what is wrong with it."""
    try:
        backup = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Backup)
    except FileNotFoundError:
        raise LeadlineError(f"{folder} holds no finished backup: there is no {MANIFEST} in it") from None
    except msgspec.DecodeError as error:
        raise LeadlineError(f"{folder / MANIFEST} cannot be read: {error}") from None
    if backup.format != _FORMAT:
        raise LeadlineError(f"{folder} is a backup of form {backup.format}, this program reads {_FORMAT}")
    copy = folder / STORE
    if not copy.exists():
        raise LeadlineError(f"{copy} is missing")
    if (copy.stat().st_size, _sha256(copy, on_step)) != (backup.size, backup.sha256):
        raise LeadlineError(f"{copy} is not what was backed up: its checksum differs; take another backup")
    return backup


def put_in_place(folder: Path, events: Path, now: datetime) -> Path | None:
    """Make the backup's store the one at `events`; where the store that stood there was put, None for none.

    The caller owns the data folder. At every moment a whole store stands there, under one name or the other.
    """
    events.parent.mkdir(parents=True, exist_ok=True)
    coming = events.with_name(f"{events.name}.restoring")
    _copy_file(folder / STORE, coming)
    aside = _set_aside(events, now) if events.exists() else None
    for leftover in ("-wal", "-shm"):
        events.with_name(events.name + leftover).unlink(missing_ok=True)
    coming.replace(events)
    _sync(events.parent)
    return aside


def _copy(events: Path, copy: Path, on_step: OnStep) -> None:
    uri = f"{events.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)) as source,
        closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        source.execute("BEGIN")
        source.execute("SELECT MAX(rowid) FROM stored_events").fetchone()  # from here on it is one moment
        source.backup(
            target,
            pages=_PAGES,
            progress=lambda _status, left, total: on_step("copying", total - left, total),
        )
        target.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
    _sync(copy)


def _examined(copy: Path, on_step: OnStep) -> Backup:
    """What the copy holds. Raises `LeadlineError` for a copy that SQLite or a gap says is damaged."""
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        [(sound,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
        if sound != "ok":
            raise LeadlineError(f"the store is damaged, and so is its copy: {sound}")
        [(last, count)] = connection.execute("SELECT COALESCE(MAX(rowid), 0), COUNT(*) FROM stored_events")
        if last != count:
            raise LeadlineError(f"the copy has {count:,} events and ends at {last:,}: some are missing")
        positions = dict(
            connection.execute("SELECT application_name, MAX(notification_id) FROM tracking GROUP BY 1")
        )
        store_id = str(positions.pop("store", ""))
        unreadable, event_id, at = _read_all(connection, last, on_step)
    return Backup(
        datetime.now(UTC),
        store_id,
        last,
        event_id,
        at,
        positions,
        copy.stat().st_size,
        _sha256(copy, on_step),
        tuple(unreadable[:_TOLD]),
    )


def _read_all(
    connection: sqlite3.Connection, last: int, on_step: OnStep
) -> tuple[list[str], str, datetime | None]:
    """(what cannot be read, id of the last event that can, when it was recorded)."""
    unreadable: list[str] = []
    event_id, at = "", None
    for row in _rows(connection):
        position, stream, version, name, state = row
        try:
            recorded = codec.decode(name, state, stream, version, position)
        except UnknownEventError as error:
            unreadable.append(str(error))
        else:
            event_id, at = recorded.event_id, recorded.at
        if position % _BATCH == 0 or position == last:
            on_step("checking", position, last)
    return unreadable, event_id, at


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[int, str, int, str, bytes]]:
    return connection.execute(
        "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events ORDER BY rowid"
    )


def _set_aside(events: Path, now: datetime) -> Path:
    """The store that stands there under another name too, with its write-ahead log."""
    aside = events.with_name(f"events.before-restore-{now:%Y%m%dT%H%M%SZ}.db")
    if aside.exists():
        raise LeadlineError(f"{aside} is there already: a restore a second is enough")
    log = events.with_name(f"{events.name}-wal")
    if log.exists():  # unread: to look into a damaged store would change it
        os.link(log, aside.with_name(f"{aside.name}-wal"))
    os.link(events, aside)
    return aside


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as written:
        while block := read.read(1 << 20):
            written.write(block)
        written.flush()
        os.fsync(written.fileno())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sha256(path: Path, on_step: OnStep) -> str:
    digest, size, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            on_step("summing", done, size)
    return digest.hexdigest()


def _remove(folder: Path) -> None:
    for name in (STORE, f"{STORE}-journal", MANIFEST):
        (folder / name).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
