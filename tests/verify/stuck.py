"""Notices that nothing moves any more while something is unfinished, and dumps the state of every such lead."""

from __future__ import annotations

import signal
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from domain import lead as leads
from domain.errors import LeadlineError
from domain.lead import LeadState
from tests.support.system_leadline import Running
from tests.support.system_sql import Row, query
from tests.verify.evidence import read_events, read_positions
from tests.verify.world import World

LOOK_SECONDS = 0.5


class StuckDetector:
    """A thread that looks at events, views and positions; after `quiet` seconds without a change it dumps, once
    for each time that things come to a stop."""

    def __init__(self, world: World, quiet: float = 15.0) -> None:
        self._world = world
        self._quiet = quiet
        self._over = threading.Event()
        self.dumps: list[Path] = []
        self._thread = threading.Thread(target=self._run, name="stuck", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        seen, since, told = standing(self._world.data), time.monotonic(), False
        while not self._over.wait(LOOK_SECONDS):
            now = standing(self._world.data)
            if now != seen:
                seen, since, told = now, time.monotonic(), False
            elif not told and time.monotonic() - since > self._quiet and unfinished(self._world.data):
                told = True
                self.dumps.append(dump(self._world, f"nothing has moved for {self._quiet:g} s"))


def standing(data: Path) -> tuple[object, ...]:
    """What changes while anything moves."""
    with suppress(sqlite3.Error):
        events = query(data / "events.db", "SELECT MAX(rowid) AS last FROM stored_events")
        tracked = query(data / "events.db", "SELECT SUM(notification_id) AS sum FROM tracking")
        views = query(data / "views.db", "SELECT position FROM views_meta")
        return events[0]["last"], tracked[0]["sum"], *(row["position"] for row in views)
    return ()


def unfinished(data: Path) -> list[Row]:
    with suppress(sqlite3.Error):
        return query(data / "views.db", "SELECT * FROM unfinished ORDER BY business_id, lead_id, since")
    return []


def dump(world: World, why: str) -> Path:
    """Everything that tells where it stands, as a file of the round's folder."""
    number = len(list(world.folder.glob("stuck-*.txt"))) + 1
    file = world.folder / f"stuck-{number}.txt"
    running = world.running
    if running is not None and world.alive():
        with suppress(ProcessLookupError):
            world.signal(signal.SIGUSR1)  # its threads' stacks, into its own log
        time.sleep(0.5)
    parts = [why, *_leads(world.data), *_positions(world.data), *_gauges(running)]
    if running is not None:
        parts += ["", "the runner's last words:", running.err[-20_000:]]
    file.write_text("\n".join(parts) + "\n")
    world.note(f"dumped {file.name}: {why}")
    return file


def _leads(data: Path) -> Iterator[str]:
    """Each unfinished lead: its rows of `unfinished`, and its state as the events have it."""
    rows = unfinished(data)
    yield f"\n{len(rows)} unfinished messages"
    for row in rows:
        yield f"  {row['business_id']}/{row['lead_id']} {row['message_id']}: {row['waiting_for']}, since {row['since']}"
    try:
        events = read_events(data / "events.db")
    except (LeadlineError, sqlite3.Error) as error:
        yield f"the events cannot be read: {error}"
        return
    states: dict[str, LeadState] = {}
    for recorded in events:
        if recorded.stream.startswith("lead:"):
            leads.evolve(states.setdefault(recorded.stream, LeadState(recorded.stream)), recorded)
    for stream, state in states.items():
        if state.queue:
            yield from _lead(stream, state)


def _lead(stream: str, state: LeadState) -> Iterator[str]:
    yield f"\n{stream} at version {state.version}, sequence {state.sequence}, {len(state.queue)} in its queue"
    for work in state.queue[:3]:
        step = msgspec.to_builtins(work.step) if work.step is not None else None
        yield f"  {work.message.message_id} run {work.run}: {work.phase}, next {work.next} of {len(work.plan)}"
        yield f"    step {step}"
        yield f"    done {sorted(work.done)}, undone {work.undone}, failure {work.failure}"


def _positions(data: Path) -> Iterator[str]:
    with suppress(sqlite3.Error):
        yield f"\npositions {dict(sorted(read_positions(data / 'events.db').items()))}"
        yield f"views {query(data / 'views.db', 'SELECT * FROM views_meta')}"
        yield f"breakers {query(data / 'views.db', 'SELECT * FROM breakers')}"


def _gauges(running: Running | None) -> Iterator[str]:
    """What the process says of itself, where it still answers."""
    url = running.said("metrics") if running is not None else ""
    if not url:
        return
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except OSError as error:
        yield f"\n/metrics does not answer: {error}"
        return
    yield "\nthe process's own gauges:"
    yield from (f"  {line}" for line in lines if line.startswith("leadline_"))
