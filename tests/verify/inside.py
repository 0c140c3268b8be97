"""Inside a process of Leadline: named points at which it dies, a clock that jumps, a disk that fills.

What is asked for stands in `faults.json` of the folder that the process was started in; a thread looks at it
many times a second, so that faults begin and end while the process runs. Nothing of the project knows of this.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from functools import wraps
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

CONTROL = Path("faults.json")
#: Events between two snapshots, and read at once: few, so that leads of a round wake from snapshots.
LONG = 25
LOOK_SECONDS = 0.02
#: SQLite's own bound: as if there were none.
NO_LIMIT = 4_294_967_294

#: Point → the attribute whose call is the point, and whether the process dies before or after the call.
POINTS = {
    "before the append": ("actors.journal", "EventRecorder.insert_rows", "before"),
    "after the append, before anybody is told": ("actors.journal", "EventRecorder.insert_rows", "after"),
    "after the append, before projection": ("actors.journal", "JournalActor._answer", "after"),
    "before a call": ("actors.worker", "Worker.on_receive", "before"),
    "between a call and its event": ("actors.worker", "Worker._ended", "before"),
    "before a checkpoint": ("actors.journal", "EventRecorder.insert_tracking", "before"),
    "after a checkpoint": ("actors.journal", "EventRecorder.insert_tracking", "after"),
    "before a batch is projected": ("projections.store", "ViewsStore.apply", "before"),
    "after a batch is projected": ("projections.store", "ViewsStore.apply", "after"),
    "during a rebuild, before the swap": ("projections.rebuild", "swap", "before"),
    "during a rebuild, after the swap": ("projections.rebuild", "swap", "after"),
    "while a lead wakes": ("actors.event_store", "EventStore.stream", "after"),
    "before a snapshot": ("actors.snapshots", "write", "before"),
    "after a snapshot": ("actors.snapshots", "write", "after"),
    "during a drain, nothing taken any more": ("actors.intake", "Intake.drain", "before"),
    "during a drain, positions written": ("actors.intake", "Intake.drain", "after"),
    "after recovery has woken the leads": ("runner", "System._recover", "after"),
    "amid results or replies, sent and not confirmed": ("outbox.sending", "Sender._write", "after"),
    "between two confirmations of what goes out": ("outbox.sending", "Sender._on_answer", "after"),
    "before the outbox's position moves": ("outbox.position", "PositionFile.write", "before"),
    "after the outbox's position has moved": ("outbox.position", "PositionFile.write", "after"),
}


class Asked(Struct, frozen=True):
    """What `faults.json` may hold."""

    #: The point to die at, and at which passing of it.
    point: str = ""
    passing: int = 1
    #: Seconds by which the wall clock is ahead; negative: behind.
    clock: float = 0.0
    #: Pages that the event store may still grow by; None: as many as it likes.
    pages_left: int | None = None
    #: The same for the views, and for a rebuild of them; the outbox's position then cannot be written at all.
    views_pages_left: int | None = None
    #: So many writes fail with an I/O error before they are done, or after.
    failing_writes: int = 0
    fail: str = "before"
    #: Changed with every asking, so that the same can be asked again.
    number: int = 0


class Seams:
    """What is asked of this process just now. Any thread reads, one writes."""

    def __init__(self) -> None:
        self.asked = Asked()
        self._lock = threading.Lock()
        self._passed = 0
        self._failed = 0
        self._limit: int | None = None
        #: (asking, database) → the pages that it may have.
        self._views_limits: dict[tuple[int, str], int] = {}

    def look(self) -> None:
        try:
            asked = msgspec.json.decode(CONTROL.read_bytes(), type=Asked)
        except (OSError, msgspec.DecodeError):
            return  # nothing is asked yet; it is replaced whole, so that half of it is never seen
        if asked.number != self.asked.number:
            with self._lock:
                self._passed = self._failed = 0
            self.asked = asked

    def watch(self) -> None:
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)

    def pass_point(self, point: str) -> None:
        if self.asked.point != point:
            return
        with self._lock:
            self._passed += 1
            due = self._passed == self.asked.passing
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_fails(self, when: str) -> None:
        """Raises what a disk with a bad moment makes SQLite raise."""
        asked = self.asked
        if asked.fail != when or self._failed >= asked.failing_writes:
            return
        with self._lock:
            self._failed += 1
        raise sqlite3.OperationalError("disk I/O error")

    def bound_pages(self, recorder: Any) -> None:
        """The writing connection's bound on the store's size, where another is asked for. Its own thread only."""
        wanted = self.asked.pages_left
        if wanted == self._limit:
            return
        self._limit = wanted
        with recorder.datastore.transaction(commit=True) as cursor:  # only writers get the writing connection
            cursor.execute("PRAGMA page_count")
            pages = cursor.fetchone()[0]
            cursor.execute(f"PRAGMA max_page_count={NO_LIMIT if wanted is None else pages + wanted}")

    def bound_views(self, store: Any) -> None:
        """The same of the views' writing connection. The projector's own thread only."""
        asked = self.asked
        if asked.views_pages_left is None and not self._views_limits:
            return
        connection = (
            store.engine.raw_connection()
        )  # the pool's only one, which the next transaction is given too
        try:
            cursor = connection.cursor()
            [pages] = cursor.execute("PRAGMA page_count").fetchone()
            if asked.views_pages_left is None:
                self._views_limits.clear()
                limit = NO_LIMIT
            else:
                key = (asked.number, str(store.engine.url))
                limit = self._views_limits.setdefault(key, pages + asked.views_pages_left)
            cursor.execute(f"PRAGMA max_page_count={limit}")
        finally:
            connection.close()

    def outbox_fails(self) -> None:
        if self.asked.views_pages_left is not None:
            raise sqlite3.OperationalError("database or disk is full")


def install() -> None:
    """Put the seams in, and begin to look for what is asked."""
    from importlib import import_module  # noqa: PLC0415

    faulthandler.register(signal.SIGUSR1)  # every thread's stack on stderr, for whoever asks what is stuck
    seams = Seams()
    seams.look()
    for point, (module, path, when) in POINTS.items():
        _wrap(import_module(module), path, _passing(seams, point, when))
    _install_elsewhere(seams)
    threading.Thread(target=seams.watch, name="faults", daemon=True).start()


def _install_elsewhere(seams: Seams) -> None:
    import runner  # noqa: PLC0415
    from actors import journal, recording, rejects  # noqa: PLC0415
    from outbox import position, run  # noqa: PLC0415
    from projections import store  # noqa: PLC0415

    recording.LONG = LONG
    rejects.FORGET_AT = LONG
    _wrap(journal, "EventRecorder.insert_rows", _store(seams))
    _wrap(journal, "EventRecorder.insert_tracking", _store(seams))
    _wrap(runner, "SystemClock.now", _clock(seams))
    _wrap(store, "ViewsStore.apply", _before(seams.bound_views))
    _wrap(position, "PositionFile.write", _before(lambda _: seams.outbox_fails()))
    run.datetime = _ahead(seams)  # type: ignore[attr-defined]  # the outbox asks the clock itself


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def _wrap(module: Any, path: str, wrapper: Wrapper) -> None:
    """Replace an attribute of a module, or of a class in it, by itself with something around it."""
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, wrapper(getattr(owner, name)))


def _passing(seams: Seams, point: str, when: str) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when == "before":
                seams.pass_point(point)
            result = original(*args, **kwargs)
            if when == "after":
                seams.pass_point(point)
            return result

        return wrapped

    return wrapper


def _store(seams: Seams) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wrapped(recorder: Any, *args: Any, **kwargs: Any) -> Any:
            seams.bound_pages(recorder)
            seams.write_fails("before")
            result = original(recorder, *args, **kwargs)
            seams.write_fails("after")
            return result

        return wrapped

    return wrapper


def _before(act: Callable[[Any], None]) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wrapped(owner: Any, *args: Any, **kwargs: Any) -> Any:
            act(owner)
            return original(owner, *args, **kwargs)

        return wrapped

    return wrapper


def _clock(seams: Seams) -> Wrapper:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def wrapped(clock: Any) -> datetime:
            now: datetime = original(clock)
            return now + timedelta(seconds=seams.asked.clock)

        return wrapped

    return wrapper


def _ahead(seams: Seams) -> type[datetime]:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seams.asked.clock)

    return Ahead
