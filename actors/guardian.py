"""The guardian: watches that nothing dies or hangs unseen, and says how the process ends.

Journal, intake, directory, projector, scheduler and pool are crash-only: when one dies, the process says
why and ends with 1. Restarting is the path that is tested most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import structlog

from actors.pool import Dispatcher
from domain.errors import LeadlineError
from domain.saga import describe, stack_of

log = structlog.get_logger(__name__)


class Guardian:
    """Owns the process's end. `died` may be called from any thread; the first call counts."""

    def __init__(self, dispatcher: Dispatcher, busy_warning: float) -> None:
        self._dispatcher = dispatcher
        self._busy_warning = busy_warning
        self._warned: set[str] = set()
        self.ended = threading.Event()
        self.cause: str | None = None
        self._stopping = False

    def died(self, who: str, error: BaseException) -> None:
        """A part that cannot be replaced is gone."""
        if self._stopping or self.cause is not None:
            return
        self.cause = f"{who} died: {describe(error)}"
        if isinstance(error, LeadlineError):  # a sentence for a person: no stack explains it better
            log.critical("a part died", part=who, error=str(error))
        else:
            log.critical("a part died", part=who, error=describe(error), stack=stack_of(error))
        self.ended.set()

    def stopping(self) -> None:
        """From now on parts end because they are told to."""
        self._stopping = True

    def check(self, alive: Mapping[str, Callable[[], bool]]) -> None:
        """One look: every part alive, and no pool thread at one message for too long [H11]."""
        for part, is_alive in alive.items():
            if not is_alive():
                self.died(part, RuntimeError("its thread has ended"))
        hanging = {urn for urn, seconds in self._dispatcher.busy() if seconds > self._busy_warning}
        for urn in hanging - self._warned:
            log.error("an actor holds a pool thread", actor=urn, seconds=self._busy_warning)
        self._warned = hanging

    def hanging(self) -> int:
        """Pool threads that are at one message for too long."""
        return len(self._warned)
