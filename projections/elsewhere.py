"""A rebuild in a process of its own: beside actors, it would keep the interpreter to itself for its time [H27]."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from domain.ports import EventLog
from projections.rebuild import RebuildStoppedError, Stopping, rebuild

#: Fewer events than these are folded sooner than a process is started.
SMALL = 20_000

_LOOK_SECONDS = 0.05


def rebuild_elsewhere(open_log: Callable[[], EventLog], views: str | Path, stop: Stopping) -> None:
    """Rebuild the views; blocks until they are right. `open_log` is picklable where the store is large.

    Raises `RebuildStoppedError`, OSError with what ended the process, or what `rebuild` raises.
    """
    log = open_log()
    try:
        if log.last_position() < SMALL:
            rebuild(log, views, stop=stop)
            return
    finally:
        log.close()
    context = multiprocessing.get_context("spawn")  # threads are running: a fork would copy their locks
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_rebuild, args=(open_log, views, writer), name="leadline-rebuild", daemon=True
    )
    process.start()
    writer.close()
    while process.is_alive() and not stop.is_set():
        process.join(_LOOK_SECONDS)
    if process.is_alive():
        process.kill()  # what it was building is worth nothing before the swap
        process.join()
        raise RebuildStoppedError("the rebuild was stopped; the old views stand")
    if process.exitcode != 0:
        raise OSError(f"the rebuild failed: {_last_words(reader, process.exitcode)}")


def end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed parent stops nobody, its sentinel says it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _rebuild(open_log: Callable[[], EventLog], views: str | Path, words: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which kills this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    log = open_log()
    try:
        rebuild(log, views)
    except Exception as error:  # whatever it is, it is said by the parent, in one line
        words.send(str(error))
        raise SystemExit(1) from None
    finally:
        log.close()


def _last_words(reader: Connection, exitcode: int | None) -> str:
    try:
        return str(reader.recv())
    except EOFError:
        return f"its process ended with {exitcode}"
