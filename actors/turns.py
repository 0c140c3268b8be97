"""Who waits for one target, and whose turn is next: the officer of `domain/pace.py`.

Owned by the target's supervisor, and used by it alone, but for `pause` and `is_paused`: its workers, which hear
of a pause first, begin it, so that none of them goes on to the next call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice

from msgspec import Struct

from domain import pace
from domain.ports import ActionCall

#: The pause of a target that says "too many" and not for how long.
_PAUSE_US = 1_000_000
#: How soon to look again for somebody who was told to come and has not.
_SOON_US = 50_000


class Waiting(Struct, frozen=True):
    """A lead that waits to be told, and the attempt that its wait is known by."""

    key: str
    stream: str
    attempt: int


class Turns:
    """Calls that wait here, leads that wait elsewhere, and the target's pace."""

    def __init__(
        self,
        calls_per_second: float | None,
        longest_pause: float,
        monotonic: Callable[[], float],
        *,
        once: bool,
    ) -> None:
        self._longest_pause_us = round(longest_pause * 1e6)
        self._monotonic = monotonic
        self._once = once
        #: Guards every change of the pace.
        self._lock = threading.Lock()
        self._pace = pace.pace_of(calls_per_second)
        #: Calls that wait here.
        self.held: deque[ActionCall] = deque()
        #: Key → its lead, longest waiting first.
        self.leads: dict[str, Waiting] = {}
        #: Keys of the leads that were told to come and have not; while `limited` others stay behind them.
        self._told: set[str] = set()

    @property
    def limited(self) -> bool:
        """The target has a rate or is pausing: calls go one by one, in the order in which they came."""
        return self._pace.interval_us > 0 or self._pace.paused_until_us > 0

    def is_it(self, call: ActionCall) -> bool:
        """Whether a call that has just come may go out: nobody was before it, and the pace allows it."""
        if not self.limited:
            return True
        if self.wait_us():
            return False
        if not self._once:
            return not self.held
        return call.key in self._told or not (self._told or self.leads)

    def went_out(self, call: ActionCall) -> None:
        self.leads.pop(call.key, None)
        if self.limited:
            self._told.discard(call.key)
            with self._lock:
                self._pace = pace.let_out(self._pace, self._now_us())

    def waits(self, call: ActionCall) -> None:
        """Its lead waits to be told; the call that was begun has been given back."""
        self.leads[call.key] = Waiting(call.key, call.stream, call.attempt - 1)

    def next_held(self) -> ActionCall | None:
        """A call that waited here and whose turn it is."""
        return self.held.popleft() if self.held and not self.wait_us() else None

    def next_leads(self, count: int) -> list[Waiting]:
        """Leads to be told that they may come; who was told before and has not come has lost its turn."""
        told = [self.leads.pop(key) for key in list(islice(self.leads, max(0, count)))]
        self._told = {waiting.key for waiting in told} if self.limited else set()
        return told

    def pause(self, asked_us: int | None) -> float:
        """The target wants no call for so long, up to the longest pause. In seconds; 0 in a pause already. Any
        thread."""
        for_us = max(0, min(_PAUSE_US if asked_us is None else asked_us, self._longest_pause_us))
        with self._lock:
            was_paused = self.is_paused()
            self._pace = pace.paused(self._pace, self._now_us(), for_us)
        return 0.0 if was_paused else for_us / 1e6

    def is_paused(self) -> bool:
        """Any thread."""
        until = self._pace.paused_until_us
        return until > 0 and until > self._now_us()

    def pause_is_over(self) -> None:
        """Forget a pause that has passed: without a rate calls go as they come again."""
        with self._lock:
            if self._pace.paused_until_us and not self.is_paused():
                self._pace = pace.resumed(self._pace)

    def look_again_us(self) -> int | None:
        """When the next call may go out, if one waits for that."""
        if not self.limited or not (self.held or self.leads):
            return None
        return self.wait_us() or self._pace.interval_us or _SOON_US

    def wait_us(self) -> int:
        """How long no call may go out."""
        return pace.wait_us(self._pace, self._now_us()) if self.limited else 0

    def _now_us(self) -> int:
        return round(self._monotonic() * 1e6)
