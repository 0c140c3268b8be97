"""Code of the user's own on a thread of ours, which another thread can break off when it does not come back.

A thread cannot be killed, but an exception can be raised in it at its next step in Python. That ends a loop, and not
what blocks elsewhere: such a thread is left behind, another takes its place, and it ends when it comes back.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Self

_raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc


class BrokenOff(BaseException):  # no error of anybody's: it must pass what catches those
    """Raised in code that is broken off, and in whoever entered its stretch: nothing it led to counts."""


class Stretch:
    """One go of such code after the other: entered on the thread that runs it, broken off from any other, once."""

    __slots__ = ("_broken_off", "_lock", "_thread", "since")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None
        self._broken_off = False
        #: Monotonic; set anew for each thing that the code does.
        self.since = 0.0

    def __enter__(self) -> Self:
        self.since = time.monotonic()
        self._thread = threading.get_ident()
        return self

    @property
    def at_work(self) -> bool:
        """The code has not come back. Any thread."""
        return self._thread is not None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            if not self._broken_off:
                return
            _raise_in(ctypes.c_ulong(thread or 0), None)  # one that has not struck yet strikes nobody else
        raise BrokenOff

    def break_off(self) -> bool:
        """Whether the code had not come back: it does not any more, as far as others can tell."""
        with self._lock:
            if self._thread is None:
                return False
            if not self._broken_off:
                self._broken_off = True
                _raise_in(ctypes.c_ulong(self._thread), ctypes.py_object(BrokenOff))
            return True

    def stack(self) -> str:
        """Where the code is just now; empty once it has come back."""
        frame = sys._current_frames().get(self._thread or 0)  # noqa: SLF001  # the only way to see another thread's
        return "".join(traceback.format_stack(frame)) if frame is not None else ""
