"""The guardian: watches that nothing dies or hangs unseen, and says how the process ends.

Journal, intake, directory, projector, scheduler and pool are crash-only: when one dies, the process says
why and ends with 1. Restarting is the path that is tested most. A lead whose code does not come back is
stopped, and its thread replaced.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import structlog

from actors.breaker import BreakerActor
from actors.pool import Dispatcher, Runnable
from domain.errors import LeadlineError
from domain.saga import describe, stack_of

log = structlog.get_logger(__name__)

#: Time between two looks counts for no more: a process that was stopped for an hour has not hung for one.
_LOOK_SECONDS = 1.0


NOBODY: Mapping[str, Callable[[], str]] = MappingProxyType({})


class PartEndedError(LeadlineError):
    """A part is not there any more; the text is a clause that says how it ended."""


def _thread_ended() -> str:
    return "its thread has ended"


class Guardian:
    """Owns the process's end. `died` may be called from any thread; the first call counts."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        busy_warning: float,
        *,
        longest: float = 30.0,
        give_up: Callable[[Runnable, float], object] = lambda _actor, _seconds: None,
    ) -> None:
        """A thread that is at one message for longer than `busy_warning` seconds is replaced; after `longest`,
        `give_up` is asked, which is `Directory.give_up`."""
        self._dispatcher = dispatcher
        self._busy_warning = busy_warning
        self._longest = longest
        self._give_up = give_up
        self._looked = time.monotonic()
        #: (actor, since when) of those at work at the last look → for how long they were seen so.
        self._at_work: dict[tuple[Runnable, float], float] = {}
        self._hanging: set[tuple[Runnable, float]] = set()
        self.ended = threading.Event()
        self.cause: str | None = None
        self._stopping = False

    def died(self, who: str, error: BaseException) -> None:
        """A part that cannot be replaced is gone."""
        if self._stopping or self.cause is not None:
            return
        self.cause = f"{who} died: {error if isinstance(error, PartEndedError) else describe(error)}"
        if isinstance(error, LeadlineError):  # a sentence for a person: no stack explains it better
            log.critical("a part died", part=who, error=str(error))
        else:
            log.critical("a part died", part=who, error=describe(error), stack=stack_of(error))
        self.ended.set()

    def stopping(self) -> None:
        """From now on parts end because they are told to."""
        self._stopping = True

    def check(
        self, alive: Mapping[str, Callable[[], bool]], how_ended: Mapping[str, Callable[[], str]] = NOBODY
    ) -> None:
        """One look: every part alive, and no pool thread at one message for too long [H11].

        `how_ended` has a clause for parts that are more than a thread.
        """
        for part, is_alive in alive.items():
            if not is_alive():
                self.died(part, PartEndedError(how_ended.get(part, _thread_ended)()))
        self._look_at_pool()
        hanging = {turn for turn, seconds in self._at_work.items() if seconds > self._busy_warning}
        for actor, _ in hanging - self._hanging:
            log.error("an actor holds a pool thread", actor=actor.actor_urn, seconds=self._busy_warning)
            self._dispatcher.replace(actor)
        self._hanging = hanging
        for (actor, _), seconds in self._at_work.items():
            if seconds > self._longest:
                self._give_up(actor, seconds)

    def _look_at_pool(self) -> None:
        now = time.monotonic()
        step, self._looked = min(now - self._looked, _LOOK_SECONDS), now
        before = self._at_work
        self._at_work = {
            turn: before.get(turn, 0.0) + min(step, now - turn[1]) for turn in self._dispatcher.busy()
        }

    def hanging(self) -> list[str]:
        """Actors that are at one message for too long, those among them that were given up."""
        return sorted({actor.actor_urn for actor, _ in self._hanging})


def whose_code_hangs(guardian: Guardian, breakers: Iterable[BreakerActor]) -> tuple[str, ...]:
    """Leads and other actors by name, targets with the number of calls that do not come back."""
    calls = (f"{b.target.name} ({len(b.staff.replaced)} calls)" for b in breakers if b.staff.replaced)
    return (*guardian.hanging(), *calls)
