"""The circuit breaker's rule: when calls to a target are let through.

Pure; `actors/breaker.py` applies it. Times are integers in microseconds since the epoch. Closed counts
calls by the second; open lets nothing through until its time is up (doubling each time, up to a cap);
half-open lets a few probes through and closes when they all come back well. A call that fails because of the
configuration (a login that is refused) opens at once; a target that is switched off has no timer.
See M. Nygard, "Release It!", chapter "Circuit Breaker".
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
from msgspec import Struct

from domain.events import BreakerClosed, BreakerHalfOpened, BreakerOpened, Event
from domain.outcomes import Done, Failed, Misconfigured, Outcome, Unknown

_SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


#: How a call ended, to its breaker. put_off: the target asked for a pause, which proves nothing either way.
Ended = Literal["well", "failed", "put_off", "misconfigured", "switched_off"]


class BreakerPolicy(Struct, frozen=True):
    """When to open, for how long, and how many probes close it again."""

    window_us: int = 30 * _SECOND
    minimum_calls: int = 5
    failure_rate: float = 0.5
    open_us: int = 10 * _SECOND
    open_cap_us: int = 300 * _SECOND
    probes: int = 2


class Breaker(Struct, frozen=True):
    """State of one target's breaker."""

    name: str
    state: Literal["closed", "open", "half_open"] = "closed"
    #: (second, calls, failures), oldest first, within the window.
    counts: tuple[tuple[int, int, int], ...] = ()
    open_for_us: int = 0
    retry_at_us: int = 0
    #: Open, or half-open after it, because of the configuration: its calls wait without a deadline.
    configuration: bool = False
    #: Open, and no timer half-opens it.
    switched_off: bool = False
    probes_out: int = 0
    probes_well: int = 0
    #: Counts the transitions: a call that went out in another one is a straggler.
    generation: int = 0


def admits(breaker: Breaker, policy: BreakerPolicy) -> bool:
    """Whether a call may go out now."""
    return room(breaker, policy) > 0


def room(breaker: Breaker, policy: BreakerPolicy) -> int:
    """How many more calls may go out in this state."""
    if breaker.state == "half_open":
        return probes_left(breaker, policy)
    return sys.maxsize if breaker.state == "closed" else 0


def probes_left(breaker: Breaker, policy: BreakerPolicy) -> int:
    """How many more calls a half-open breaker lets through."""
    return policy.probes - breaker.probes_out - breaker.probes_well


def let_out(breaker: Breaker) -> Breaker:
    """The breaker once a call has gone out."""
    if breaker.state != "half_open":
        return breaker
    return msgspec.structs.replace(breaker, probes_out=breaker.probes_out + 1)


def came_back(
    breaker: Breaker,
    policy: BreakerPolicy,
    ended: Ended,
    *,
    error: str,
    now_us: int,
    generation: int | None = None,
) -> tuple[Breaker, Sequence[Event]]:
    """The breaker after a call's end, and the transition it makes.

    `generation` is the breaker's when the call went out. A straggler of another generation changes nothing:
    what was sent before the breaker opened proves nothing about a target that is being probed.
    """
    if breaker.state == "open" or generation not in {None, breaker.generation}:
        return breaker, ()
    if ended == "put_off":
        return _without(breaker), ()
    if ended in {"misconfigured", "switched_off"}:
        return _misconfigured(
            breaker, policy, switched_off=ended == "switched_off", error=error, now_us=now_us
        )
    failed = ended == "failed"
    if breaker.state == "half_open":
        return _probe_came_back(breaker, policy, failed=failed, error=error, now_us=now_us)
    counted = _count(breaker, policy, failed=failed, now_us=now_us)
    if not failed:
        return counted, ()
    calls = sum(c for _, c, _ in counted.counts)
    failures = sum(f for _, _, f in counted.counts)
    if calls >= policy.minimum_calls and failures >= policy.failure_rate * calls:
        opened = _opened(breaker.name, policy.open_us, calls, failures, error=error, now_us=now_us)
        return evolve(counted, opened), (opened,)
    return counted, ()


def time_is_up(breaker: Breaker) -> tuple[Breaker, Sequence[Event]]:
    """The breaker when the timer of its open time has run out, or its settings may be other ones."""
    if breaker.state != "open":
        return breaker, ()
    event = BreakerHalfOpened(breaker.name)
    return evolve(breaker, event), (event,)


def retry_in_us(breaker: Breaker, now_us: int) -> int:
    """How long a refused call should wait: never longer than the open time, whatever the clock did [H16].

    Says nothing of a target that is switched off.
    """
    if breaker.state == "open":
        return max(0, min(breaker.retry_at_us - now_us, breaker.open_for_us))
    return breaker.open_for_us


def evolve(breaker: Breaker, event: Event) -> Breaker:
    """The breaker after a transition; other events change nothing."""
    generation = breaker.generation + 1
    match event:
        case BreakerOpened():
            return Breaker(
                breaker.name,
                "open",
                open_for_us=event.open_for_us,
                retry_at_us=to_us(event.retry_at) if event.retry_at is not None else 0,
                configuration=event.configuration,
                switched_off=event.switched_off,
                generation=generation,
            )
        case BreakerHalfOpened():
            return Breaker(
                breaker.name,
                "half_open",
                open_for_us=breaker.open_for_us,
                retry_at_us=breaker.retry_at_us,
                configuration=breaker.configuration,
                generation=generation,
            )
        case BreakerClosed():
            return Breaker(breaker.name, generation=generation)
        case _:
            return breaker


def is_whole(event: Event) -> bool:
    """Whether a transition leaves nothing of the state before it: a replay may begin with it."""
    return isinstance(event, BreakerOpened | BreakerClosed)


def to_us(instant: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    since = instant - _EPOCH  # by hand: a division of timedeltas takes three times as long
    return (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds


def _probe_came_back(
    breaker: Breaker, policy: BreakerPolicy, *, failed: bool, error: str, now_us: int
) -> tuple[Breaker, Sequence[Event]]:
    if failed:
        opened = _opened(breaker.name, _longer(breaker, policy), 1, 1, error=error, now_us=now_us)
        return evolve(breaker, opened), (opened,)
    well = breaker.probes_well + 1
    if well >= policy.probes:
        closed = BreakerClosed(breaker.name)
        return evolve(breaker, closed), (closed,)
    return msgspec.structs.replace(_without(breaker), probes_well=well), ()


def _without(breaker: Breaker) -> Breaker:
    """A probe is back: its place is free for another."""
    return msgspec.structs.replace(breaker, probes_out=max(0, breaker.probes_out - 1))


def _longer(breaker: Breaker, policy: BreakerPolicy) -> int:
    """The open time after a probe that did not come back well."""
    return min(max(breaker.open_for_us, policy.open_us) * 2, policy.open_cap_us)


def _misconfigured(
    breaker: Breaker, policy: BreakerPolicy, *, switched_off: bool, error: str, now_us: int
) -> tuple[Breaker, Sequence[Event]]:
    """One such call says enough: every other would be answered the same."""
    open_for_us = _longer(breaker, policy) if breaker.state == "half_open" else policy.open_us
    opened = _opened(breaker.name, open_for_us, 1, 1, error=error, now_us=now_us)
    opened = msgspec.structs.replace(opened, configuration=True)
    if switched_off:
        opened = msgspec.structs.replace(opened, retry_at=None, open_for_us=0, switched_off=True)
    return evolve(breaker, opened), (opened,)


def _count(breaker: Breaker, policy: BreakerPolicy, *, failed: bool, now_us: int) -> Breaker:
    second = now_us // _SECOND
    oldest = second - policy.window_us // _SECOND
    counts = breaker.counts
    if counts and counts[-1][0] > second + policy.window_us // _SECOND:  # a clock that was far ahead
        counts = ()
    if counts and counts[0][0] <= oldest:
        counts = tuple(c for c in counts if c[0] > oldest)
    if counts and counts[-1][0] >= second:  # a clock that went back counts into the newest second
        last, calls, failures = counts[-1]
        counts = (*counts[:-1], (last, calls + 1, failures + failed))
    else:
        counts = (*counts, (second, 1, int(failed)))
    return msgspec.structs.replace(breaker, counts=counts)


def _opened(
    name: str, open_for_us: int, calls: int, failures: int, *, error: str, now_us: int
) -> BreakerOpened:
    retry_at = _EPOCH + timedelta(microseconds=now_us + open_for_us)
    return BreakerOpened(name, calls, failures, retry_at, open_for_us, error)


def ended_as(outcome: Outcome) -> Ended:
    """What a call's end says of its target."""
    match outcome:
        case Done():
            return "well"
        case Misconfigured(switched_off=switched_off):
            return "switched_off" if switched_off else "misconfigured"
        case Failed(throttled=throttled):
            return "put_off" if throttled else "failed"
        case Unknown():
            return "failed"
    return "well"  # it was not made
