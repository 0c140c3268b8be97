"""The world outside, for tests: time that moves when told, timers fired by hand, targets that keep a call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from actors.targets.scripted import ScriptedTarget
from domain.events import Idempotency, MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan
from domain.outcomes import Outcome
from domain.ports import TargetRequest

T0 = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


class ManualClock:
    """Both clocks stand still until a test moves them; the wall clock can be set on its own."""

    def __init__(self) -> None:
        self._now = T0
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def pass_time(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_wall(self, by: timedelta) -> None:
        """Somebody sets the machine's clock: no time has passed."""
        self._now += by


class Timers:
    """What `Scheduler` is to the actors, fired by hand. One pending timer an address and slot, as there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pending: dict[tuple[str, str], tuple[Any, float]] = {}

    def arm(self, address: str, message: Any, delay_seconds: float, slot: str = "") -> None:
        with self._lock:
            self.pending[address, slot] = (message, delay_seconds)

    def delay(self, address: str, slot: str = "") -> float:
        """Seconds that the pending timer was armed for."""
        assert (address, slot) in self.pending, f"no timer for {address} among {list(self.pending)}"
        return self.pending[address, slot][1]

    def take(self, address: str, slot: str = "") -> Any:
        """The message of a timer that runs out now."""
        with self._lock:
            message, _ = self.pending.pop((address, slot))
        return message


class KeptReplies:
    """`protocol.Replies`: what was published, in order."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []

    def publish(self, subject: str, body: bytes) -> None:
        self.published.append((subject, body))


class HeldTarget(ScriptedTarget):
    """A scripted target that can keep its calls until the test lets them go. `requests` came, in order."""

    def __init__(
        self, idempotency: Idempotency = "keyed", script: Sequence[str] = ("done",), *, cycle: bool = False
    ) -> None:
        super().__init__(idempotency, script, cycle=cycle)
        self.requests: list[TargetRequest] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        """From now on calls that come stay."""
        self._open.clear()

    @property
    def holds(self) -> bool:
        return not self._open.is_set()

    def release(self) -> None:
        """Every call goes on."""
        self._open.set()

    def call(self, request: TargetRequest) -> Outcome:
        self.requests.append(request)
        assert self._open.wait(30), "a held call was forgotten"
        outcome = super().call(request)
        self.outcomes.append((request.key, outcome))
        return outcome

    def keys(self) -> list[str]:
        """Keys of the calls that came, in order."""
        return [request.key for request in self.requests]

    def effects(self) -> list[str]:
        """Keys of what happened: a keyed target does a key once."""
        return sorted(self._done)


class PoisonError(BaseException):
    """What no handler should raise: not even an Exception."""


class Poison:
    """A handler for the intent POISON that raises at some messages until it is mended."""

    def __init__(self, *message_ids: str) -> None:
        self.message_ids = set(message_ids)
        self.tries = 0

    def plan(self, message: MessageReceived, _band: Band) -> Plan:
        if message.message_id in self.message_ids:
            self.tries += 1
            raise PoisonError(message.message_id)
        return Plan(("notify_sales",), "soon")

    def mend(self) -> None:
        self.message_ids.clear()

    def module(self) -> ModuleType:
        """As the settings' `modules` would bring it in."""
        module = ModuleType("poison")
        module.HANDLER = IntentHandler("POISON", self.plan)  # type: ignore[attr-defined]
        return module
