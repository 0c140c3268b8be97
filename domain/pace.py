"""How fast a target may be called: at its rate, and not while it has asked for a pause.

Pure; `actors/breaker.py` applies it. Times are microseconds of a clock that never goes back.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct


class Pace(Struct, frozen=True):
    """What is known of one target in this process; nothing of it outlives the process."""

    #: Between two calls at least; 0 where the target has no rate.
    interval_us: int = 0
    next_us: int = 0
    paused_until_us: int = 0


def pace_of(calls_per_second: float | None) -> Pace:
    """The pace of a target that takes so many calls; None for any number."""
    return Pace(round(1_000_000 / calls_per_second) if calls_per_second else 0)


def let_out(pace: Pace, now_us: int) -> Pace:
    """The pace once a call has gone out. What was not used is not made up for: no two calls come closer."""
    return msgspec.structs.replace(pace, next_us=now_us + pace.interval_us)


def paused(pace: Pace, now_us: int, for_us: int) -> Pace:
    """The pace of a target that has asked for a pause; a longer one that it asked for before stays."""
    return msgspec.structs.replace(pace, paused_until_us=max(pace.paused_until_us, now_us + for_us))


def resumed(pace: Pace) -> Pace:
    """The pace of a target whose pause is over."""
    return msgspec.structs.replace(pace, paused_until_us=0)


def wait_us(pace: Pace, now_us: int) -> int:
    """How long until a call may go out."""
    return max(0, pace.next_us - now_us, pace.paused_until_us - now_us)
