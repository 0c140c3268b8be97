"""Work in a process of its own: beside actors, it would keep the interpreter to itself for its time [H27]."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from typing import Protocol

_LOOK_SECONDS = 0.05


class Stopping(Protocol):
    """What `threading.Event` and `multiprocessing.Event` have in common here."""

    def is_set(self) -> bool: ...


class Aside:
    """A function at work in another process, which ends with this one, however that ends.

    The function and what it is given are picklable. What it raises comes back as one line of words.
    """

    def __init__(self, name: str, work: Callable[..., object], *given: object) -> None:
        context = multiprocessing.get_context("spawn")  # threads are running: a fork would copy their locks
        self._words, writer = context.Pipe(duplex=False)
        # No daemon of the library's, which may not have children; `atexit` does what is needed of it.
        self._process = context.Process(target=_run, args=(work, given, writer), name=f"leadline-{name}")
        start_undisturbed(self._process)
        atexit.register(self.kill)
        writer.close()

    def finish(self, stop: Stopping | None) -> bool:
        """Wait for its end. False where the wait was stopped before: it is killed then."""
        while self._process.is_alive():
            if stop is not None and stop.is_set():
                self.kill()
                return False
            self._process.join(_LOOK_SECONDS)
        return True

    def kill(self) -> None:
        """End it where it is, if it has not ended."""
        atexit.unregister(self.kill)
        self._process.kill()
        self._process.join()

    def failure(self) -> str | None:
        """What ended it, in one line; None where it came to its end. Asked once it has ended."""
        atexit.unregister(self.kill)
        if self._process.exitcode == 0:
            return None
        try:
            return str(self._words.recv())
        except EOFError:
            return f"its process ended with {self._process.exitcode}"


def start_undisturbed(process: BaseProcess) -> None:
    """Start a process that signals do not end: Ctrl-C reaches all of a terminal, and `SIGTERM` often all of a service,
    but they are for the parent, which ends the others when it has drained. Blocked here and inherited, since the new
    interpreter needs a second until it could say so itself."""
    resource_tracker.ensure_running()  # else it is started within, and lets the signals in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Ends this process when its parent is gone: a killed parent stops nobody, its sentinel says it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(work: Callable[..., object], given: tuple[object, ...], words: Connection) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        work(*given)
    except Exception as error:  # whatever it is, it is said by the parent, in one line
        words.send(str(error))
        raise SystemExit(1) from None
