"""Waiting for what another thread or process is about to do, without sleeping for longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(assertion: Callable[[], T], *, within: float = 10.0, every: float = 0.01) -> T:
    """What `assertion` returns once it neither raises AssertionError nor returns False; its last error after
    `within` seconds."""
    until = time.monotonic() + within
    while True:
        try:
            result = assertion()
            if result is not False:
                return result
            raise AssertionError(f"still false after {within} s: {assertion}")
        except AssertionError:
            if time.monotonic() > until:
                raise
        time.sleep(every)
