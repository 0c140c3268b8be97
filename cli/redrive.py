"""Dead letters sent back to work: a few first, at a rate, watched until it is seen what became of each.

What is said of a letter is read from the views once they hold the command's own event: never from the
acceptance of the command alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

from msgspec import Struct

from cli.ask import Conversation
from domain.commands import PersonsCommand
from domain.errors import LeadlineError
from domain.rejects import is_reject_id
from projections.queries import Row, Views

#: Letters at work at once: more would only wait in their targets' queues, beyond recall.
AT_WORK = 50
_LOOK_SECONDS = 0.1

Outcome = Literal["not_tried", "at_work", "completed", "failed", "refused"]
#: Ways in which a redrive can go wrong for one letter.
ILL = ("failed", "refused")


class Result(Struct):
    """What became of one dead letter."""

    id: str
    outcome: Outcome = "not_tried"
    reason: str = ""


class Pace(Struct, frozen=True):
    """How a redrive goes about it."""

    #: So many alone, and the others only if these all complete.
    first: int = 0
    #: Commands a second at most; 0 for as fast as they are answered.
    rate: float = 0.0
    #: After so many that went wrong in a row no more are sent.
    stop_after: int = 3
    #: Seconds to wait for what is at work once no more is sent; 0 waits for nothing.
    wait: float = 60.0
    #: Seconds to wait for the answer to each command.
    timeout: float = 10.0


class Redrive:
    """One redrive. `run` may be cancelled at any moment: `results` and `stopped` then say how far it is."""

    def __init__(
        self,
        letters: Sequence[Row],
        views: Views,
        last_position: Callable[[], int],
        make: Callable[[str], PersonsCommand],
        pace: Pace,
    ) -> None:
        """`last_position` is the store's: views that stand there hold what was answered before."""
        self._letters = {letter["id"]: letter for letter in letters}
        self._views = views
        self._last_position = last_position
        self._make = make
        self._pace = pace
        self.results = {letter["id"]: Result(letter["id"]) for letter in letters}
        #: Why not all were sent, None where they were.
        self.stopped: str | None = None
        #: Sent and not seen to have ended → the position whose events the views must hold to say more.
        self._watched: dict[str, int] = {}
        self._ill_in_a_row = 0

    @property
    def well(self) -> bool:
        """Everything was sent, and came out as well as was waited for."""
        hoped = {"completed"} if self._pace.wait else {"completed", "at_work"}
        return self.stopped is None and all(r.outcome in hoped for r in self.results.values())

    def counts(self) -> dict[str, int]:
        return dict(Counter(result.outcome for result in self.results.values()))

    async def run(self, talk: Conversation) -> None:
        """Send all, as the pace allows, and watch what becomes of them. What goes wrong on the way is in `stopped`."""
        ids = list(self.results)
        try:
            await self._canary(talk, ids[: self._pace.first])
            await self._send(talk, ids[self._pace.first :])
            await self._settle()
        except asyncio.CancelledError:
            self.stopped = "interrupted"
            with suppress(
                LeadlineError
            ):  # the last look is for what has just ended; the report is due in any case
                self._look()
        except LeadlineError as error:
            self.stopped = str(error)

    async def _canary(self, talk: Conversation, ids: Sequence[str]) -> None:
        if not ids:
            return
        await self._send(talk, ids)
        await self._settle()
        well = sum(self.results[name].outcome == "completed" for name in ids)
        if self.stopped is None and well < len(ids):
            self.stopped = f"of the first {len(ids)} only {well} came out well"

    async def _send(self, talk: Conversation, ids: Sequence[str]) -> None:
        due = time.monotonic()
        for name in ids:
            while self.stopped is None and (len(self._watched) >= AT_WORK or time.monotonic() < due):
                await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, due - time.monotonic()) or _LOOK_SECONDS))
                self._look()
            if self.stopped is not None:
                return
            due = max(due, time.monotonic()) + (1 / self._pace.rate if self._pace.rate else 0.0)
            await self._give(talk, self.results[name])

    async def _give(self, talk: Conversation, result: Result) -> None:
        result.outcome = "at_work"
        tokens = self._views.subject_of_dead_letter(result.id)
        if tokens is None:
            self._ends(result, "refused", "it is not known any more")
            return
        answer = await talk.ask(tokens, self._make(result.id), self._pace.timeout)
        if not answer.done:
            self._ends(result, "refused", answer.reason)
        elif self._pace.wait:
            self._watched[result.id] = self._last_position()

    async def _settle(self) -> None:
        """Watch until nothing is at work, or the time is up."""
        until = time.monotonic() + self._pace.wait
        while self._watched and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        """What the views say of what is at work. Raises `LeadlineError` where they have stopped."""
        standing = self._views.position()
        if standing.stopped_error:
            raise LeadlineError(
                f"what became of them cannot be seen: the views have stopped: {standing.stopped_error}"
            )
        seen = [name for name, position in self._watched.items() if position <= standing.position]
        for row in self._views.dead_letters_named(seen):
            outcome, reason = self._of(row)
            if outcome != "at_work":
                del self._watched[row["id"]]
                self._ends(self.results[row["id"]], outcome, reason)

    def _of(self, row: Row) -> tuple[Outcome, str]:
        if row["status"] == "retrying":
            return "at_work", ""
        if row["status"] == "failed":
            return "failed", f"{row['category']}: {row['error_message']}"
        if row["status"] == "discarded":
            return "failed", "it was discarded meanwhile"
        return self._of_delivered(row) if is_reject_id(row["id"]) else ("completed", "")

    def _of_delivered(self, row: Row) -> tuple[Outcome, str]:
        """A reject is resolved once its lead has it; how the message ended stands with the message."""
        message_id = row["message_id"]
        if message_id is None or row["lead_id"] is None:
            return "completed", "delivered to its lead; its body named no message when it was rejected"
        found = self._views.processed(row["business_id"], row["lead_id"], message=message_id)
        disposition = found[0]["disposition"] if found else "in_progress"
        if disposition == "dead_lettered":
            return "failed", "delivered to its lead, and a dead letter of that lead now"
        return ("completed", "") if disposition == "completed" else ("at_work", "")

    def _ends(self, result: Result, outcome: Outcome, reason: str) -> None:
        result.outcome, result.reason = outcome, reason
        self._ill_in_a_row = self._ill_in_a_row + 1 if outcome in ILL else 0
        if self._ill_in_a_row >= self._pace.stop_after and self.stopped is None:
            self.stopped = f"{self._ill_in_a_row} in a row went wrong, the last: {reason}"


def described(results: Sequence[Result]) -> list[str]:
    """A line for each that did not end well."""
    words: dict[str, Any] = {"failed": "failed again", "refused": "refused", "at_work": "still at work"}
    return [
        f"{r.id}: {words[r.outcome]}{f': {r.reason}' if r.reason else ''}"
        for r in results
        if r.outcome in words
    ]
