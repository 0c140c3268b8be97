"""Which calls are at work: between the leads, which ask for them, and the breakers, which make them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from actors.turns import Waiting
from domain.commands import RecordOutcome
from domain.outcomes import NotCalled, Outcome
from domain.ports import ActionCall
from domain.retry import PARKED

#: How long a call waits by itself where somebody is to tell it that it may come.
PARKED_US = PARKED // timedelta(microseconds=1)


class Desk(Protocol):
    """Gives the turns of one target that may be called once. Any thread; returns at once."""

    def ask(self, asker: Waiting) -> NotCalled | None:
        """None once a turn is reserved, until its call comes or it is given back. Else why not: the lead is told
        `EndWait` when it may ask again."""
        ...

    def give_back(self, key: str) -> None:
        """Let others have the turn that is reserved for this key, if one is."""
        ...


class CallRegistry:
    """Every call that is at work, by key: a key in flight is not begun again [H4]. Any thread."""

    def __init__(self, tell: Callable[[str, Any], None], targets: Callable[[str], bool]) -> None:
        self._tell = tell
        self._is_target = targets
        self._lock = threading.Lock()
        self._attempts: dict[str, int] = {}
        #: By the name of the target; of those alone that may be called once.
        self.desks: dict[str, Desk] = {}

    def ask(self, target: str, asker: Waiting) -> NotCalled | None:
        desk = self.desks.get(target)
        if desk is not None:
            return desk.ask(asker)
        return None if self._is_target(target) else NotCalled(PARKED_US, "target_configuration")

    def give_back(self, key: str) -> None:
        for desk in self.desks.values():
            desk.give_back(key)

    def begin(self, call: ActionCall) -> None:
        with self._lock:
            if self._attempts.get(call.key) == call.attempt:
                return
            self._attempts[call.key] = call.attempt
        if self._is_target(call.target):
            self._tell(f"breaker:{call.target}", call)
        else:
            self.end(call, NotCalled(PARKED_US, "target_configuration"))

    def end(self, call: ActionCall, outcome: Outcome) -> None:
        """Tell the lead and forget the call, as one step: whoever finds it gone finds the outcome told."""
        with self._lock:
            self._tell(call.stream, RecordOutcome(call.key, call.attempt, outcome))
            if self._attempts.get(call.key) == call.attempt:
                del self._attempts[call.key]

    def in_flight(self, key: str) -> bool:
        with self._lock:
            return key in self._attempts

    def count(self) -> int:
        return len(self._attempts)

    def keys(self) -> list[str]:
        """Of the calls that are at work, the longest first."""
        with self._lock:
            return list(self._attempts)
