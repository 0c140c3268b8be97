"""Where the projector runs: on a thread of this process, or as a process of its own. The same code in both.

As a process it leaves the interpreter to the actors, which is worth a third of the throughput.
"""

from __future__ import annotations

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

from domain.ports import EventLog
from projections.elsewhere import end_with_parent, rebuild_elsewhere
from projections.projector import ProjectorSettings, run_projector

log = structlog.get_logger(__name__)

#: Opens a reader of the store; picklable, since the process form opens its own.
OpenLog = Callable[[], EventLog]

#: Done first in the projector's process, which begins without what its parent has configured; picklable.
SetUp = Callable[[], None]

_STOP_SECONDS = 10.0


def as_it_is() -> None:
    """Sets up nothing: for whoever has no logging of his own."""


class Host(Protocol):
    """A projector at work."""

    def alive(self) -> bool: ...

    def stop(self) -> None:
        """Project what is there, then end. Any state is safe to stop in."""
        ...


class ThreadHost:
    """The projector on a thread. `on_death` gets what leaves it."""

    def __init__(
        self,
        open_log: OpenLog,
        views: Path,
        settings: ProjectorSettings,
        on_death: Callable[[BaseException], None],
    ) -> None:
        forget_stop(views)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(open_log, views, settings, on_death), name="projector", daemon=True
        )
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def _run(
        self,
        open_log: OpenLog,
        views: Path,
        settings: ProjectorSettings,
        on_death: Callable[[BaseException], None],
    ) -> None:
        try:
            elsewhere = partial(rebuild_elsewhere, open_log, views)
            run_projector(
                open_log, views, self._stop, settings=settings, say=log.warning, rebuilder=elsewhere
            )
        except BaseException as error:  # crash-only: the process says why and ends
            on_death(error)


class ProcessHost:
    """The projector as a process, which ends with its parent, however that ends."""

    def __init__(
        self, open_log: OpenLog, views: Path, settings: ProjectorSettings, set_up: SetUp = as_it_is
    ) -> None:
        forget_stop(views)
        context = multiprocessing.get_context("spawn")  # threads are running: a fork would copy their locks
        # A pipe and no event of the library's: its semaphores outlive a killed parent, which is then said aloud.
        told, self._stop = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_project_as_process,
            args=(open_log, views, settings, told, set_up),
            name="leadline-projector",
            daemon=True,
        )
        self._process.start()
        told.close()  # the child has its own

    def alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        self._stop.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def forget_stop(views: Path) -> None:
    """What stopped an earlier projector may be mended: who asks before the new one has looked is not told of it."""
    sql = "UPDATE views_meta SET stopped_error = NULL WHERE stopped_error IS NOT NULL"
    with suppress(sqlite3.Error), closing(_open_existing(views)) as connection, connection:
        connection.execute(sql)  # views that are missing or damaged are the projector's to mend


def _open_existing(views: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{views.absolute().as_uri()}?mode=rw", uri=True)


def _project_as_process(
    open_log: OpenLog, views: Path, settings: ProjectorSettings, told: Connection, set_up: SetUp
) -> None:
    set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which drains first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    stop = threading.Event()
    threading.Thread(target=_await_stop, args=(told, stop), daemon=True).start()
    run_projector(open_log, views, stop, settings=settings, say=log.warning)


def _await_stop(told: Connection, stop: threading.Event) -> None:
    """The parent closes its end of the pipe to end the projector in peace."""
    with suppress(EOFError, OSError):
        told.recv()
    stop.set()
