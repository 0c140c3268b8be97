"""Stop 6 of 7: events in batches become rows, with the position in the same transaction.

Here live the loop and its watch over what it stands on: the views' file, the store's identity [H18], an
event that cannot be applied. What an event means for a row is said in the views' own modules, and SQL is
written in `store.py`: so this file can be read for one question only, when are views right.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from msgspec import Struct

from domain.errors import UnknownEventError
from domain.ports import EventLog
from projections.aside import Stopping
from projections.build import OpenLog, RebuildStoppedError
from projections.database import file_of, is_damage, open_writer
from projections.fold import Fold
from projections.rebuild import RebuildBusyError, rebuild
from projections.store import (
    ViewsMovedError,
    ViewsPosition,
    ViewsStore,
    apply_up_to_trouble,
    doubt,
    event_time,
)


class ProjectorSettings(Struct, frozen=True):
    """How the projector paces itself."""

    #: Events folded in one transaction at most. More make it faster behind a backlog, and hold more memory.
    batch: int = 8000
    #: Seconds between two looks for new events. Less makes views fresher and takes more CPU from the leads.
    linger: float = 0.05
    #: Seconds between two tries where an event or the database holds it up.
    retry: float = 1.0


class Progress(Struct, frozen=True):
    """How far the views are behind the store."""

    position: int
    last: int
    applied: int
    #: When the last applied event was recorded.
    event_at: datetime | None = None
    #: What holds the projector up, in one line.
    stopped: str | None = None

    @property
    def lag(self) -> int:
        """Events that are recorded and not in the views."""
        return max(0, self.last - self.position)


#: Puts right views in the place of what is there; what it raises is what `rebuild` raises.
Rebuilder = Callable[[Stopping], object]


class Projector:
    """Keeps one views database up to date with one store.

    Owns its connection to the views; `log` belongs to it as well. `run` is called by one thread; `wake` by any.
    An exception that leaves `run` is a defect: the process says so and ends.
    """

    def __init__(
        self,
        log: EventLog,
        views: str | Path,
        settings: ProjectorSettings | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        say: Callable[[str], None] | None = None,
        rebuilder: Rebuilder | None = None,
    ) -> None:
        """`say` gets one line where an operator should know; `rebuilder` may do its work in another process
        [H27], by default it is done here."""
        self._log = log
        self._views = views
        self._settings = settings or ProjectorSettings()
        self._on_progress = on_progress
        self._say = say or (lambda _line: None)
        self._rebuild = rebuilder or (lambda stop: rebuild(log, views, stop=stop))
        self._fold = Fold()
        self._store: ViewsStore | None = None
        self._standing: ViewsPosition | None = None
        self._file: tuple[int, int] | None = None
        self._holding: set[str] = set()
        self._woken = threading.Event()
        self._stop: Stopping = threading.Event()

    def run(self, stop: Stopping) -> None:
        """Project until told to stop, then once more what is there. Closes the views, not the log."""
        self._stop = stop
        try:
            while not stop.is_set():
                delay = self.step()
                if delay:
                    self._woken.wait(delay)
                    self._woken.clear()
            self.step()
        finally:
            self.close()

    def step(self) -> float:
        """One look for new events. The seconds to wait before the next: 0 where a full batch was found."""
        try:
            return self._go_on()
        except ViewsMovedError:
            self._let_go()
            return self._settings.linger
        except RebuildStoppedError:
            return self._settings.linger
        except (RebuildBusyError, sa.exc.OperationalError, sqlite3.OperationalError, OSError) as error:
            self._let_go()  # busy, full or out of reach: the same again, with what is read afresh
            self._held_up(_one_line(error))
            return self._settings.retry

    def wake(self) -> None:
        """Look at once instead of after the linger."""
        self._woken.set()

    def close(self) -> None:
        """Let go of the views' database."""
        self._let_go()

    def _go_on(self) -> float:
        """One look, and damaged views built anew; where that is held up, it is held up like any other look."""
        try:
            delay = self._advance(self._ready())
        except sa.exc.DatabaseError as error:
            if not is_damage(error):
                raise
            self._start_again(f"the views cannot be read ({_one_line(error)})")
            return 0.0
        self._holding.clear()
        return delay

    def _ready(self) -> ViewsPosition:
        """The standing of open, sound views; opens or rebuilds them where they are not."""
        if self._store is not None and self._file != _identity(self._views):
            self._let_go()
            self._start_again("the views' file was removed or replaced")
        if self._store is None or self._standing is None:
            self._open()
        assert self._standing is not None  # _open has set it
        return self._standing

    def _advance(self, standing: ViewsPosition) -> float:
        assert self._store is not None  # _ready has opened it
        try:
            batch = self._log.read(standing.position, self._settings.batch)
        except UnknownEventError as error:
            return self._stopped(standing, str(error))
        if not batch:
            self._report(standing)
            return self._settings.linger
        standing, trouble = apply_up_to_trouble(self._store, self._fold, batch, standing)
        self._standing = standing
        if trouble is not None:
            return self._stopped(standing, trouble)
        self._report(standing)
        return 0.0 if len(batch) >= self._settings.batch else self._settings.linger

    def _stopped(self, standing: ViewsPosition, why: str) -> float:
        """At this event and no further, where everybody can see it; tried again, since a store can be mended."""
        assert self._store is not None  # _ready has opened it
        if standing.stopped_error != why:
            self._say(f"the views stop at event {standing.position}: {why}")
            standing = self._standing = self._store.say_stopped(standing, why)
        self._report(standing)
        return self._settings.retry

    def _open(self) -> None:
        why = self._look()
        if why is not None:
            self._start_again(why)
            why = self._look()
            if why is not None:
                raise OSError(f"the views are not right after a rebuild: {why}")
        self._file = _identity(self._views)

    def _look(self) -> str | None:
        """Open the views. Why they cannot be gone on with, in words; None if they can."""
        path = file_of(self._views)
        if path is not None and not path.exists():
            return "there are none"
        if self._store is None:
            self._store = ViewsStore(open_writer(self._views))
        try:
            self._standing = self._store.standing()
        except sa.exc.OperationalError:
            raise
        except sa.exc.DatabaseError as error:
            return f"they cannot be read ({_one_line(error)})"
        if self._standing is None:
            return "there are none"
        return doubt(self._standing, self._log)

    def _start_again(self, why: str) -> None:
        self._let_go()
        if self._log.last_position():
            self._say(f"rebuilding the views: {why}")
        self._rebuild(self._stop)

    def _let_go(self) -> None:
        self._fold.forget()
        if self._store is not None:
            self._store.close()
        self._store = None
        self._standing = None
        self._file = None

    def _held_up(self, why: str) -> None:
        """It can last for hours, and is tried each second: each cause is said once until the views go on."""
        if why not in self._holding:
            self._holding.add(why)
            self._say(f"the views are held up, tried again until they go on: {why}")
        if self._on_progress is not None:
            self._on_progress(Progress(0, self._log.last_position(), 0, None, why))

    def _report(self, standing: ViewsPosition) -> None:
        if self._on_progress is None:
            return
        last = max(standing.position, self._log.last_position())
        self._on_progress(
            Progress(standing.position, last, standing.applied, event_time(standing), standing.stopped_error)
        )


def run_projector(
    open_log: OpenLog,
    views: str | Path,
    stop: Stopping,
    *,
    settings: ProjectorSettings | None = None,
    say: Callable[[str], None] | None = None,
    rebuilder: Rebuilder | None = None,
) -> None:
    """A projector with a log of its own, until `stop` is set: the body of a thread or of a process."""
    log = open_log()
    here = partial(rebuild, log, views, open_log=open_log)
    try:
        Projector(log, views, settings, say=say, rebuilder=rebuilder or (lambda stop: here(stop=stop))).run(
            stop
        )
    finally:
        log.close()


def _identity(views: str | Path) -> tuple[int, int] | None:
    """Which file stands there now; None where there is none, or no file at all."""
    path = file_of(views)
    if path is None:
        return None
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _one_line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "orig", error)).split())
