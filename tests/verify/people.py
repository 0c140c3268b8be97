"""People at work: they look at the queue and the tasks, and give commands over the log, some of them nonsense.

They tell the truth: whether something of unknown outcome happened, they look up in the target's own ledger.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from domain import commands as co
from domain.commands import PersonsCommand, encode_command
from domain.tokens import encode
from tests.support.system_sql import Row, query
from tests.support.system_wire import Entry
from tests.verify.invariants.effects import effect_of
from tests.verify.ledgers import read_ledgers, read_servers
from tests.verify.publisher import Publisher
from tests.verify.workload import Sent
from tests.verify.world import World, patiently

#: Between two looks.
LOOK_SECONDS = 0.3
#: The same where others wait for them, and nothing else is to do.
HURRY_SECONDS = 0.1
#: A request may be under way when its caller has given up on it: nobody asks a target sooner.
ASK_AFTER_SECONDS = 1.0
#: Dead letters and tasks that are dealt with in one look.
AT_ONCE = 4

Settled = Literal["done", "undone", "retry", "skip"]

_LETTERS = (
    "SELECT d.*, s.business_token, s.lead_token FROM dead_letter_queue d JOIN dead_letter_subjects s USING (id)"
    " WHERE d.status = 'failed' ORDER BY d.id"
)
_TASKS = "SELECT * FROM tasks WHERE status IN ('pending', 'in_progress') ORDER BY task_id LIMIT 200"
_BEHIND = "SELECT DISTINCT waiting_for FROM unfinished WHERE waiting_for LIKE 'dead letter %'"
_PARKED = "SELECT message_id FROM unfinished WHERE waiting_for = 'target configuration' LIMIT 1"
_STOPPED = "SELECT id FROM dead_letter_queue WHERE status = 'failed' AND category = 'lead_stopped' LIMIT 1"
_UNKNOWN = (
    "SELECT json_extract(state, '$.event.key') AS key FROM stored_events"
    " WHERE topic = 'action_failed.v1' AND originator_id = ? AND json_extract(state, '$.event.message_id') = ?"
    " AND json_extract(state, '$.event.category') = 'outcome_unknown' ORDER BY originator_version DESC LIMIT 1"
)

_STOPS = (
    "SELECT rowid, topic, json_extract(state, '$.event.lead_stream') AS stream FROM stored_events"
    " WHERE topic IN ('lead_stopped.v1', 'lead_resumed.v1') ORDER BY rowid"
)
_NOT_UNDONE = (
    "SELECT json_extract(state, '$.event.key') AS key FROM stored_events"
    " WHERE topic = 'compensation_failed.v1' AND originator_id = ?"
    " AND json_extract(state, '$.event.message_id') = ?"
)


class People:
    """A thread that looks and acts until it is stopped."""

    def __init__(self, world: World, publisher: Publisher) -> None:
        self._world = world
        self._publisher = publisher
        self._dice = random.Random(f"{world.seed}/people")
        self._number = 0
        #: (dead letter, when its row last changed) that were dealt with.
        self._dealt_with: set[tuple[str, str]] = set()
        #: Those of stopped leads whose code is not mended yet: left for the end.
        self._left: set[tuple[str, str]] = set()
        #: Positions of the stops after which a lead was resumed.
        self._resumed: set[int] = set()
        #: (dead letter, when its row last changed) → when it was first seen.
        self._seen: dict[tuple[str, str], float] = {}
        self._over = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="people", daemon=True)
        self._thread.start()

    def let_all_go_on(self, within: float) -> bool:
        """Whether, once the targets answer well, no lead is stopped, and nothing waits behind a dead letter or for a
        target's configuration before the time is up."""
        self._dealt_with -= self._left
        self._hurry.set()
        return patiently(lambda: not self._held_up(), within)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS if not self._hurry.is_set() else HURRY_SECONDS):
            try:
                self._publisher.put(list(self.look()))
            except sqlite3.Error as error:  # no views, or none that can be read just now
                self._world.note(f"people cannot look: {error}")

    def look(self) -> Iterator[Sent]:
        """What people do after one look."""
        views = self._world.data / "views.db"
        if not views.exists():
            return
        letters = query(views, _LETTERS)
        fresh = [row for row in letters if self._can_be_settled(row)]
        fresh = self._dice.sample(fresh, len(fresh))
        held_up = {row["waiting_for"] for row in query(views, _BEHIND)}
        fresh.sort(key=lambda row: f"dead letter {row['id']}" not in held_up)  # first what others wait behind
        for row in fresh[: AT_ONCE if not self._hurry.is_set() else None]:
            self._dealt_with.add((row["id"], row["updated_at"]))
            for command in self._for_letter(row):
                yield self._given(command, row["business_token"], row["lead_token"])
        if self._hurry.is_set():
            yield from self._resume_stopped(letters)
        tasks = query(views, _TASKS)
        for row in self._dice.sample(tasks, min(AT_ONCE, len(tasks))):
            yield self._given(self._for_task(row), encode(row["business_id"]), encode(row["lead_id"]))
        if tasks and self._dice.random() < 0.3:
            yield from self._nonsense(tasks[0])

    def _resume_stopped(self, letters: list[Row]) -> Iterator[Sent]:
        """Also leads of which no mail is kept. What they refused to do meanwhile is asked of them again."""
        stops: dict[str, tuple[str, int]] = {}
        for row in query(self._events(), _STOPS):
            stops[row["stream"]] = (row["topic"], row["rowid"])
        for stream, (topic, position) in stops.items():
            if topic == "lead_stopped.v1" and position not in self._resumed:
                self._resumed.add(position)
                _, business, lead = stream.split(":")
                of_lead = [r for r in letters if (r["business_token"], r["lead_token"]) == (business, lead)]
                self._dealt_with -= {(row["id"], row["updated_at"]) for row in of_lead}
                yield self._given(co.ResumeLead(**self._who()), business, lead)

    def _can_be_settled(self, row: Row) -> bool:
        """Not dealt with yet; and where a target is asked what happened, it has had the time to do it."""
        letter = (row["id"], row["updated_at"])
        first_seen = self._seen.setdefault(letter, time.monotonic())
        waited = row["category"] != "outcome_unknown" or time.monotonic() >= first_seen + ASK_AFTER_SECONDS
        return waited and letter not in self._dealt_with

    def _held_up(self) -> bool:
        try:
            return any(query(self._world.data / "views.db", sql) for sql in (_BEHIND, _PARKED, _STOPPED))
        except sqlite3.Error:
            return True  # nobody knows just now

    def _for_letter(self, row: Row) -> Iterator[PersonsCommand]:
        dice, letter = self._dice, row["id"]
        if row["category"] == "lead_stopped":
            if not self._hurry.is_set() and dice.random() < 0.8:
                self._left.add((letter, row["updated_at"]))
                return
            yield co.ResumeLead(**self._who())
        elif row["category"] == "outcome_unknown":
            not_happened: tuple[Settled, ...] = ("undone", "undone", "retry", "skip")
            happened: Settled = "done" if self._happened(row) else dice.choice(not_happened)
            yield co.ResolveDeadLetter(dead_letter_id=letter, outcome=happened, **self._who())
            if happened == "undone" and dice.random() < 0.7:
                yield co.RetryDeadLetter(dead_letter_id=letter, **self._who())
        elif row["category"] == "compensation_failed":
            settled: tuple[Settled, ...] = ("done", "undone", "skip")
            if not self._undone(row):
                settled += ("retry",)  # to have it done again, where it was done, would be no truth
            yield co.ResolveDeadLetter(dead_letter_id=letter, outcome=dice.choice(settled), **self._who())
        elif dice.random() < 0.6:
            if dice.random() < 0.3 and row["category"] != "rejected":
                yield co.AmendDeadLetter(dead_letter_id=letter, changes={"confidence": 0.9}, **self._who())
            yield co.RetryDeadLetter(dead_letter_id=letter, **self._who())
        else:
            kind = dice.choice((co.DiscardDeadLetter, co.ResolveDeadLetter))
            yield kind(dead_letter_id=letter, **self._who())

    def _for_task(self, row: Row) -> PersonsCommand:
        task, dice = row["task_id"], self._dice
        kind = dice.choice((co.StartTask, co.CompleteTask, co.CancelTask, co.ReassignTask))
        if kind is co.ReassignTask:
            return co.ReassignTask(task_id=task, assigned_to_type="user", assigned_to_id="eve", **self._who())
        return kind(task_id=task, **self._who())

    def _nonsense(self, row: Row) -> Iterator[Sent]:
        """Somebody else's task, a letter that is not there, bytes that are no command."""
        business, lead = encode(row["business_id"]), encode(row["lead_id"])
        other = next(name for name in self._world.businesses if name != row["business_id"])
        yield self._given(co.CompleteTask(task_id=row["task_id"], **self._who()), encode(other), lead)
        yield self._given(co.RetryDeadLetter(dead_letter_id="nobody", **self._who()), business, lead)
        yield Sent(
            Entry(f"leads.cmd.{business}.{lead}", b'{"command": "stop everything"'), "hostile messages"
        )

    def _given(self, command: PersonsCommand, business: str, lead: str) -> Sent:
        """Mostly once; sometimes an impatient hand gives it twice."""
        sent = Sent(Entry(f"leads.cmd.{business}.{lead}", encode_command(command)), "commands")
        if self._dice.random() < 0.1:
            self._publisher.put([sent])
        return sent

    def _who(self) -> dict[str, Any]:
        self._number += 1
        return {"command_id": f"cmd-{self._world.seed}-{self._number}", "by": "eve", "why": "it is my job"}

    def _happened(self, row: Row) -> bool:
        stream = f"lead:{row['business_token']}:{row['lead_token']}"
        keys = query(self._events(), _UNKNOWN, (stream, row["message_id"]))
        if not keys:
            return False
        key, folder = keys[0]["key"], self._world.house.folder
        return effect_of(read_ledgers(folder) + read_servers(folder, [key]), key)

    def _undone(self, row: Row) -> bool:
        """Whether a compensation of it that is recorded as failed has happened all the same."""
        stream = f"lead:{row['business_token']}:{row['lead_token']}"
        keys = query(self._events(), _NOT_UNDONE, (stream, row["message_id"]))
        names, folder = [key["key"] for key in keys], self._world.house.folder
        lines = read_ledgers(folder) + read_servers(folder, names)
        return any(effect_of(lines, name) for name in names)

    def _events(self) -> Path:
        return self._world.data / "events.db"
