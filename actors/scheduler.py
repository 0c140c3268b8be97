"""Timers: one thread, one pending timer an address and slot. What is due is told to that address.

Waits are measured by the monotonic clock from when they are armed: a wall clock that jumps freezes no
retry [H16]. What must survive a restart is in the events; a restarted lead arms its timer anew.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any


class Scheduler:
    """Any thread may arm; due messages are told from the scheduler's own thread."""

    def __init__(self, tell: Callable[[str, Any], Any]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, tuple[str, str]]] = []
        self._pending: dict[tuple[str, str], tuple[int, Any]] = {}
        self._numbers = count()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(5.0)

    def alive(self) -> bool:
        return self._thread.is_alive()

    def arm(self, address: str, message: Any, delay_seconds: float, slot: str = "") -> None:
        """Tell `message` to `address` after the delay; replaces the pending timer of its slot."""
        number = next(self._numbers)
        with self._changed:
            self._pending[address, slot] = (number, message)
            heapq.heappush(self._due, (time.monotonic() + delay_seconds, number, (address, slot)))
            if self._due[0][1] == number:
                self._changed.notify()

    def pending(self) -> int:
        """Timers that have not run out."""
        return len(self._pending)

    def _run(self) -> None:
        while True:
            due = self._wait()
            if due is None:
                return
            self._tell(*due)

    def _wait(self) -> tuple[str, Any] | None:
        """The next message that is due, with its address; None at the end."""
        with self._changed:
            while not self._stopped:
                timeout = self._due[0][0] - time.monotonic() if self._due else None
                if timeout is not None and timeout <= 0:
                    _, number, place = heapq.heappop(self._due)
                    current = self._pending.get(place)
                    if current is not None and current[0] == number:
                        del self._pending[place]
                        return place[0], current[1]
                    continue  # replaced meanwhile
                self._changed.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        return None
