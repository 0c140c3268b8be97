"""Who waits for one target, and whose turn is next: the officer of `domain/pace.py`.

Owned by the target's supervisor. Leads ask for their turns from their own threads, and its workers, which hear of a
pause first, begin it, so that none of them goes on to the next call.
"""

from __future__ import annotations

import math
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
#: How long a turn is kept for a lead that is told to come.
_LATE_SECONDS = 1.0


class Waiting(Struct, frozen=True):
    """A lead that waits to be told, and the attempt that its wait is known by."""

    key: str
    stream: str
    attempt: int


class Turns:
    """Calls that wait here, leads that wait elsewhere, and the target's pace.

    At a target that may be called once a call is begun in a turn that is reserved for it: there are as many as it has
    workers. Who asks while others wait goes behind them.
    """

    def __init__(
        self,
        calls_per_second: float | None,
        longest_pause: float,
        monotonic: Callable[[], float],
        *,
        workers: int | None,
    ) -> None:
        self._longest_pause_us = round(longest_pause * 1e6)
        self._monotonic = monotonic
        #: Of a target that may be called once; None for any other.
        self._workers = workers
        #: Guards every change of what is below, but for `held`.
        self._lock = threading.RLock()
        self._pace = pace.pace_of(calls_per_second)
        #: Calls that wait here.
        self.held: deque[ActionCall] = deque()
        #: Key → its lead, longest waiting first.
        self.leads: dict[str, Waiting] = {}
        #: Key → until when (monotonic) its turn is kept: while its lead is told to come; for ever once that has asked.
        self._reserved: dict[str, float] = {}
        #: Keys of the calls that are out.
        self._out: set[str] = set()

    @property
    def limited(self) -> bool:
        """The target has a rate or is pausing: calls go one by one, in the order in which they came."""
        return self._pace.interval_us > 0 or self._pace.paused_until_us > 0

    def take(self, asker: Waiting, most: int) -> bool:
        """Reserve a turn, where there are fewer than `most`, until its call goes out or it is given back; else its
        lead waits to be told. Any thread."""
        with self._lock:
            told = self._reserved.pop(asker.key, None) is not None
            if (told or not self.leads) and self._free(most) > 0:
                self._reserved[asker.key] = math.inf
                return True
            self.leads[asker.key] = asker
            return False

    def give_back(self, key: str) -> bool:
        """Whether there was a turn for this key; it is free now. Any thread."""
        with self._lock:
            return self._reserved.pop(key, None) is not None

    def is_it(self, call: ActionCall, most: int) -> bool:
        """Whether a call that has just come may go out: nobody was before it, and the pace allows it."""
        if self._workers is not None:
            return self.take(Waiting(call.key, call.stream, call.attempt - 1), most)
        return not (self.limited and (self.held or self.wait_us()))

    def went_out(self, call: ActionCall) -> None:
        with self._lock:
            self.leads.pop(call.key, None)
            self._reserved.pop(call.key, None)
            self._out.add(call.key)
            if self.limited:
                self._pace = pace.let_out(self._pace, self._now_us())

    def came_back(self, call: ActionCall) -> None:
        with self._lock:
            self._out.discard(call.key)

    def waits(self, asker: Waiting) -> None:
        """Its lead waits to be told. Any thread."""
        with self._lock:
            self._reserved.pop(asker.key, None)
            self.leads[asker.key] = asker

    def next_held(self) -> ActionCall | None:
        """A call that waited here and whose turn it is."""
        return self.held.popleft() if self.held and not self.wait_us() else None

    def next_leads(self, most: int) -> list[Waiting]:
        """Leads to be told that they may come, at most so many. Whose turn is reserved loses it when it is late."""
        with self._lock:
            told = self._pop_leads(self._free(most))
            if self._workers is not None:
                late = self._monotonic() + _LATE_SECONDS
                self._reserved.update((asker.key, late) for asker in told)
            return told

    def all_leads(self) -> list[Waiting]:
        """Leads to be told to ask anew; no turn is reserved for any."""
        with self._lock:
            return self._pop_leads(len(self.leads))

    def lose_late(self) -> None:
        """Turns of leads that were told to come and have not are free again."""
        with self._lock:
            now = self._monotonic()
            self._reserved = {key: until for key, until in self._reserved.items() if until > now}

    def _pop_leads(self, count: int) -> list[Waiting]:
        return [self.leads.pop(key) for key in list(islice(self.leads, max(0, count)))]

    def _free(self, most: int) -> int:
        """How many more calls may come, of at most so many that are not out yet."""
        if self.wait_us():
            return 0
        if self._workers is None:
            return most
        turns = min(most, self._workers - len(self._out), 1 if self.limited else most)
        return turns - len(self._reserved)

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
