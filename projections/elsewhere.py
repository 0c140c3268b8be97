"""A rebuild for a process that has other things to do: in one of its own, where there is much to fold."""

from __future__ import annotations

from pathlib import Path

from projections.aside import Aside, Stopping
from projections.build import SMALL, OpenLog, RebuildStoppedError
from projections.rebuild import rebuild


def rebuild_elsewhere(open_log: OpenLog, views: str | Path, stop: Stopping) -> None:
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
    work = Aside("rebuild", _rebuild, open_log, views)
    if not work.finish(stop):  # what it was building is worth nothing before the swap
        raise RebuildStoppedError
    failure = work.failure()
    if failure is not None:
        raise OSError(f"the rebuild failed: {failure}")


def _rebuild(open_log: OpenLog, views: str | Path) -> None:
    log = open_log()
    try:
        rebuild(log, views, open_log=open_log)
    finally:
        log.close()
