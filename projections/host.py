"""Where a follower of the events runs: on a thread of this process, or as a process of its own. The same code in both.

As a process it leaves the interpreter to the actors, which for the projector is worth a third of the throughput.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import structlog

from projections.aside import Stopping, end_with_parent, start_undisturbed
from projections.build import OpenLog
from projections.elsewhere import rebuild_elsewhere
from projections.projector import ProjectorSettings, Rebuilder, run_projector

log = structlog.get_logger(__name__)

#: The follower itself: runs until the event is set, then once more over what is there.
Body = Callable[[Stopping], None]

#: Done first in a follower's process, which begins without what its parent has configured; picklable.
SetUp = Callable[[], None]

_STOP_SECONDS = 10.0
#: A follower makes no cycles to speak of, and a batch of rows is not worth being looked through for some.
_COLLECTIONS = (100_000, 20, 100)


def as_it_is() -> None:
    """Sets up nothing: for whoever has no logging of his own."""


class Host(Protocol):
    """A follower at work."""

    def alive(self) -> bool: ...

    def how_ended(self) -> str:
        """Of one that is not alive: a clause for a person."""
        ...

    def stop(self) -> None:
        """Follow to what is there, then end. Any state is safe to stop in."""
        ...


class ThreadHost:
    """A follower on a thread. `on_death` gets what leaves it."""

    def __init__(self, name: str, body: Body, on_death: Callable[[BaseException], None]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(body, on_death), name=name, daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def how_ended(self) -> str:
        return "its thread has ended"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self, body: Body, on_death: Callable[[BaseException], None]) -> None:
        try:
            body(self._stop)
        except BaseException as error:  # crash-only: the process says why and ends
            on_death(error)


class ProcessHost:
    """A follower as a process, which ends with its parent, however that ends. `body` is picklable."""

    def __init__(self, name: str, body: Body, set_up: SetUp = as_it_is) -> None:
        context = multiprocessing.get_context("spawn")  # threads are running: a fork would copy their locks
        # A pipe and no event of the library's: its semaphores outlive a killed parent, which is then said aloud.
        told, self._stop = context.Pipe(duplex=False)
        # No daemon of the library's, which may not have children; `atexit` does what is needed of it.
        self._process = context.Process(
            target=_run_as_process, args=(body, told, set_up), name=f"leadline-{name}"
        )
        start_undisturbed(self._process)
        atexit.register(self.stop)
        told.close()  # the child has its own

    def alive(self) -> bool:
        return self._process.is_alive()

    def how_ended(self) -> str:
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"its process has ended with exit code {code}"
        return f"its process was ended by {signal.Signals(-code).name}"

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self._stop.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def project_in_thread(
    open_log: OpenLog, views: Path, settings: ProjectorSettings, on_death: Callable[[BaseException], None]
) -> Host:
    """The projector on a thread of this process; only its rebuilds are made elsewhere."""
    forget_stop(views)
    rebuilder = partial(rebuild_elsewhere, open_log, views)
    return ThreadHost("projector", partial(_project, open_log, views, settings, rebuilder), on_death)


def project_in_process(
    open_log: OpenLog, views: Path, settings: ProjectorSettings, set_up: SetUp = as_it_is
) -> Host:
    """The projector as a process of its own."""
    forget_stop(views)
    return ProcessHost("projector", partial(_project, open_log, views, settings, None), set_up)


def forget_stop(views: Path) -> None:
    """What stopped an earlier projector may be mended: who asks before the new one has looked is not told of it."""
    sql = "UPDATE views_meta SET stopped_error = NULL WHERE stopped_error IS NOT NULL"
    with suppress(sqlite3.Error), closing(_open_existing(views)) as connection, connection:
        connection.execute(sql)  # views that are missing or damaged are the projector's to mend


def _open_existing(views: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{views.absolute().as_uri()}?mode=rw", uri=True)


def _project(
    open_log: OpenLog, views: Path, settings: ProjectorSettings, rebuilder: Rebuilder | None, stop: Stopping
) -> None:
    run_projector(open_log, views, stop, settings=settings, say=log.warning, rebuilder=rebuilder)


def _run_as_process(body: Body, told: Connection, set_up: SetUp) -> None:
    set_up()
    threading.Thread(target=end_with_parent, daemon=True).start()
    stop = threading.Event()
    threading.Thread(target=_await_stop, args=(told, stop), daemon=True).start()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    body(stop)


def _await_stop(told: Connection, stop: threading.Event) -> None:
    """The parent closes its end of the pipe to end the follower in peace."""
    with suppress(EOFError, OSError):
        told.recv()
    stop.set()
