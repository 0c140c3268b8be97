"""Stop 4 of 7: the journal, the one writer of the event store.

Blocks for one append, drains the rest, commits all of them in one transaction, answers. The only module
that imports the event store's library, so that another store stays one module's work. What may not live
here: what events mean; rows come encoded.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias
from uuid import uuid4

import structlog
from eventsourcing.persistence import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    PersistenceError,
    StoredEvent,
    Tracking,
)
from eventsourcing.sqlite import (
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteDatastore,
    SQLiteProcessRecorder,
)
from pykka import ActorDeadError, ActorRef, ThreadingActor, Timeout
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from actors import snapshots
from actors.protocol import Append, AppendResult, Committed, Conflict, Recorder, Snapshot, Unwritable
from domain import codec
from domain.errors import StoreUnreadableError
from domain.events import Event, Place, Recorded

log = structlog.get_logger(__name__)

#: Rows an INSERT takes at once: sqlite3 gives the interpreter lock away on every statement.
_CHUNKS = (512, 128, 32, 8, 1)
#: Events are some 600 bytes: with pages of 4 KiB the commits cost a fifth more.
_PAGE_BYTES = 8192
#: The log grows to 16 MiB before its pages are copied: a page that many commits touch is copied once.
_WAL_PAGES = 2000
STORE_ID = "store"
_LAST_VERSION = "SELECT COALESCE(MAX(originator_version), 0) FROM stored_events WHERE originator_id = ?"
#: How long a commit waits while leads still decide, and between two looks: each writes its leads' pages of the index,
#: so that fewer and larger ones cost a third less. An idle system never waits.
_LINGER_SECONDS, _STEP_SECONDS = 0.01, 0.002
_BACK_OFF_SECONDS = (0.05, 0.2, 1.0)
#: Exactly these speak of the store, not of a row: it is damaged, or no database at all.
_DAMAGED = (DatabaseError, InternalError, sqlite3.DatabaseError, sqlite3.InternalError)

#: An event to be recorded: stream, version, stored name, JSON.
Row: TypeAlias = tuple[str, int, str, bytes]


class _Pool(SQLiteConnectionPool):
    """The library's pool with a real statement cache (its own holds one statement) and a durable commit."""

    def _create_connection(self) -> SQLiteConnection:
        try:
            connection = sqlite3.connect(
                self.db_name,
                uri=True,
                check_same_thread=False,
                isolation_level=None,
                cached_statements=128,
                timeout=self.lock_timeout or 5,
            )
            if "mode=ro" not in self.db_name:
                connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        except sqlite3.Error as error:
            raise InterfaceError(error) from error
        connection.row_factory = sqlite3.Row
        return SQLiteConnection(connection, max_age=self.max_age)


class _Datastore(SQLiteDatastore):
    def __init__(self, db_name: str) -> None:
        super().__init__(db_name, originator_id_type="text")
        self.pool.close()
        self.pool = _Pool(db_name=db_name)


class EventRecorder(SQLiteProcessRecorder):
    """The library's recorder, writing many rows a statement, and reading rows as plain tuples."""

    def insert_rows(self, rows: Sequence[Row]) -> None:
        """Record events in one transaction. Plain tuples: a `StoredEvent` of each takes a fifth of the journal's
        time. Raises what the library's `insert_events` does."""
        start, total = 0, len(rows)
        with self.datastore.transaction(commit=True) as cursor:
            for size in _CHUNKS:
                while total - start >= size:
                    params = list(chain.from_iterable(rows[start : start + size]))
                    cursor.execute(self._insert_statement(size), params)
                    start += size

    def _insert_statement(self, rows: int) -> str:
        values = ",".join(["(?,?,?,?)"] * rows)
        return f"INSERT INTO {self.events_table_name} VALUES {values}"  # noqa: S608  # our own table's name

    def write(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for each of the rows, in one transaction."""
        with self.datastore.transaction(commit=True) as cursor:
            for row in rows:
                cursor.execute(statement, row)

    def rows(self, statement: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        """One statement, which is a short read transaction by itself: a `BEGIN` and its end would cost a third more.
        Raises `StoreUnreadableError` where it is to be tried again."""
        try:
            with self.datastore.get_connection(commit=False) as connection, connection.cursor() as cursor:
                cursor.row_factory = None  # plain tuples: the library's rows cost a copy each
                found: list[tuple[Any, ...]] = cursor.execute(statement, params).fetchall()
                return found
        except (OperationalError, InterfaceError, sqlite3.OperationalError, sqlite3.InterfaceError) as error:
            raise StoreUnreadableError(f"the event store cannot be read just now: {error}") from error


def open_recorder(path: Path, *, read_only: bool = False) -> EventRecorder:
    """The recorder of an event store, made where there is none. Raises OSError where it cannot be opened."""
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    mode = "ro" if read_only else "rwc"
    recorder = EventRecorder(_Datastore(f"{path.absolute().as_uri()}?mode={mode}"))
    try:
        if not read_only:
            recorder.create_table()
            snapshots.create(recorder)
            if recorder.max_tracking_id(STORE_ID) is None:
                recorder.insert_tracking(Tracking(STORE_ID, secrets.randbits(53)))
    except (PersistenceError, sqlite3.Error) as error:
        raise OSError(f"{path} cannot be opened as an event store: {error}") from error
    return recorder


def record_beside(path: Path, stream: str, event: Event) -> Recorded:
    """Record one event of a stream that no actor owns: beside a runner, or without one.

    A transaction of its own: SQLite lets one writer in after the other, and the journal waits like this one does.
    Raises OSError where the store cannot be written.
    """
    recorder = open_recorder(path)
    try:
        while True:
            [(version,)] = recorder.rows(_LAST_VERSION, (stream,))
            recorded = Recorded(stream, version + 1, event, str(uuid4()), datetime.now(UTC))
            try:
                recorder.insert_rows([(stream, version + 1, *codec.encode(recorded))])
            except IntegrityError:  # somebody else has just done the same
                continue
            except (PersistenceError, sqlite3.Error) as error:
                raise OSError(f"{path} cannot be written just now: {error}; try again") from error
            return recorded
    finally:
        recorder.datastore.close()


class Checkpoint:
    """Positions to be recorded, and whom to tell once they are."""

    __slots__ = ("done", "positions")

    def __init__(self, positions: dict[str, int], done: Callable[[], None] | None) -> None:
        self.positions = positions
        self.done = done


class JournalActor(ThreadingActor):
    """Owns the one writing connection. Crash-only: what it cannot sort out goes to `on_death`, and the process ends.

    A told append is answered exactly once, unless the process dies before.
    """

    use_daemon_thread = True

    def __init__(
        self,
        recorder: EventRecorder,
        positions: Recorder,
        *,
        max_appends: int,
        on_death: Callable[[BaseException], None],
        more_to_come: Callable[[], int] = lambda: 0,
    ) -> None:
        """`more_to_come` says how many are about to append: while there are any, a commit waits a little."""
        super().__init__()
        self._more_to_come = more_to_come
        self._recorder = recorder
        self._positions = positions
        self._max_appends = max_appends
        self._on_death = on_death
        self._known_positions: dict[str, int] = {}
        #: What the process's own gauges show.
        self.stalled: str | None = None
        self.commits = 0
        self.committed_appends = 0

    @staticmethod
    def _create_actor_inbox() -> SimpleQueue[Envelope[Any]]:
        # A queue.Queue cost 18 % of the journal's throughput.
        return SimpleQueue()

    def _actor_loop_running(self) -> None:
        """Block for one, drain the rest, commit, answer: a loop of its own, not a message at a time [H20]."""
        inbox = self.actor_inbox
        try:
            while not self.actor_stopped.is_set():
                batch = self._drain([inbox.get()])
                until = time.monotonic() + _LINGER_SECONDS
                while len(batch) < self._max_appends and self._more_to_come() and time.monotonic() < until:
                    time.sleep(_STEP_SECONDS)
                    self._drain(batch)
                self._run_batch(batch)
        except BaseException as error:  # crash-only: the process says why and ends
            self.actor_stopped.set()
            self._on_death(error)

    def _drain(self, batch: list[Envelope[Any]]) -> list[Envelope[Any]]:
        """With what has come meanwhile, up to the most that a commit takes."""
        while len(batch) < self._max_appends and not self.actor_inbox.empty():
            batch.append(self.actor_inbox.get())
        return batch

    def _run_batch(self, batch: Sequence[Envelope[Any]]) -> None:
        appends = [e.message for e in batch if type(e.message) is Append]
        if appends:
            self._commit(appends)
        others = [e for e in batch if type(e.message) is not Append]
        if kept := [e.message for e in others if isinstance(e.message, Snapshot)]:
            self._keep(kept)
        for envelope in others:
            message = envelope.message
            if isinstance(message, Checkpoint):
                self._checkpoint(message)
            elif isinstance(message, _ActorStop):
                self.actor_stopped.set()
                if envelope.reply_to is not None:
                    envelope.reply_to.set(None)

    def _commit(self, appends: Sequence[Append]) -> None:
        """Record all of the appends that can be, and answer each."""
        error = self._try(appends)
        if error is None:
            self._answer([(a, Committed(a.stream, a.version + len(a.rows), a.append_id)) for a in appends])
        elif type(error) in _DAMAGED:
            raise error
        elif isinstance(error, IntegrityError):
            self._sort_out(appends, error)
        elif len(appends) == 1:
            self._give_up(appends[0], error)
        else:  # halve until the bad row stands alone [H12]
            half = len(appends) // 2
            self._commit(appends[:half])
            self._commit(appends[half:])

    def _try(self, appends: Sequence[Append]) -> Exception | None:
        """One transaction; again with back-off while the store is busy or full. None once it is durable."""
        rows = [
            (a.stream, version, topic, state)
            for a in appends
            for version, (topic, state) in enumerate(a.rows, a.version + 1)
        ]
        tries = 0
        while True:
            try:
                self._recorder.insert_rows(rows)
            except (OperationalError, sqlite3.OperationalError) as error:
                self._stall(tries, error)
                tries += 1
            except Exception as error:  # handed to `_commit`, which finds the row
                return error
            else:
                self.stalled = None
                self.commits += 1
                self.committed_appends += len(appends)
                return None

    def _stall(self, tries: int, error: Exception) -> None:
        if self.stalled is None:
            log.warning("event store cannot be written, trying again", error=str(error))
        self.stalled = str(error)
        time.sleep(_BACK_OFF_SECONDS[min(tries, len(_BACK_OFF_SECONDS) - 1)])

    def _give_up(self, append: Append, error: Exception) -> None:
        log.error("event cannot be written", stream=append.stream, error=str(error))
        self._answer([(append, Unwritable(append.stream, str(error), append.append_id))])

    def _sort_out(self, appends: Sequence[Append], error: Exception) -> None:
        """After a version clash: what is there with our ids is done, what is ahead must reload, the rest is
        committed [H12]."""
        rest: list[Append] = []
        answers: list[tuple[Append, AppendResult]] = []
        for append in appends:
            stored = self._recorder.select_events(append.stream, gt=append.version)
            if not stored:
                rest.append(append)
            elif _is_ours(append, stored):
                answers.append(
                    (append, Committed(append.stream, append.version + len(append.rows), append.append_id))
                )
            else:
                answers.append((append, Conflict(append.stream, append.append_id)))
        self._answer(answers)
        if len(rest) < len(appends):
            if rest:
                self._commit(rest)
        elif len(rest) == 1:  # nothing there clashes with it: a constraint refuses the row itself
            self._give_up(rest[0], error)
        else:  # two appends of one batch clash with each other
            for append in rest:
                self._commit([append])

    def _answer(self, answers: Sequence[tuple[Append, AppendResult]]) -> None:
        places: list[Place] = []
        for append, result in answers:
            if isinstance(result, Committed):
                places += append.places
        self._positions.recorded(places)
        for append, result in answers:
            append.reply(result)

    def _keep(self, kept: Sequence[Snapshot]) -> None:
        try:
            snapshots.write(self._recorder, kept)
        except (PersistenceError, sqlite3.Error) as error:  # a lead wakes more slowly, and nothing else
            log.warning("snapshots cannot be written", count=len(kept), error=str(error))

    def _checkpoint(self, checkpoint: Checkpoint) -> None:
        """Positions, apart from the events and only where higher: an unchanged one raises [H12]."""
        for name, position in checkpoint.positions.items():
            if name not in self._known_positions:
                self._known_positions[name] = self._recorder.max_tracking_id(name) or 0
            if position > self._known_positions[name]:
                self._write_position(name, position)
        if checkpoint.done is not None:
            checkpoint.done()

    def _write_position(self, name: str, position: int) -> None:
        """Again while the store is busy: a position that is handed over once is not handed over again."""
        tries = 0
        while True:
            try:
                self._recorder.insert_tracking(Tracking(name, position))
            except (OperationalError, sqlite3.OperationalError) as error:
                self._stall(tries, error)
                tries += 1
            except IntegrityError:  # another process has raised it, and further
                self._known_positions[name] = self._recorder.max_tracking_id(name) or 0
                return
            else:
                self.stalled = None
                self._known_positions[name] = position
                return


def _is_ours(append: Append, stored: Sequence[StoredEvent]) -> bool:
    mine = [codec.event_id_of(state) for _, state in append.rows]
    there = [codec.event_id_of(s.state) for s in stored[: len(mine)]]
    return mine == there


class JournalHandle:
    """`protocol.Journal` over the actor: tells, never waits. Any thread."""

    def __init__(self, actor: JournalActor) -> None:
        self._inbox = actor.actor_inbox

    def append(self, append: Append) -> None:
        self._inbox.put(Envelope(append))

    def checkpoint(self, positions: dict[str, int], done: Callable[[], None] | None = None) -> None:
        self._inbox.put(Envelope(Checkpoint(positions, done)))

    def keep(self, snapshot: Snapshot) -> None:
        self._inbox.put(Envelope(snapshot))


def stop_journal(ref: ActorRef[JournalActor], timeout: float = 5.0) -> None:
    """End it after what is queued."""
    try:
        ref.stop(timeout=timeout)
    except (ActorDeadError, Timeout):
        return  # it has died before, and the guardian knows
