"""An operator at the command line while everything runs: redrives, one cut short, an amendment, an event skipped."""

from __future__ import annotations

import json
import signal
import sqlite3
from typing import Any

from tests.support.system_leadline import Answer
from tests.support.system_sql import Row, execute, query
from tests.verify.faults.group import Fault, Group, Scene
from tests.verify.faults.store import remove_views
from tests.verify.world import PATIENCE, World, patiently

#: A command of a person takes no longer, however busy the machine is.
WITHIN = 90.0
REDRIVE = ("dlq", "retry", "--all", "--yes", "--json", "--timeout", "20")


def redrive(scene: Scene) -> None:
    """Every dead letter, some alone first, at a rate; what is said of each must be so."""
    world = scene.world
    world.progress(100)
    first, rate = str(world.dice.randint(0, 3)), str(world.dice.choice((0, 20, 100)))
    answer = _do(world, *REDRIVE, "--first", first, "--rate", rate, "--wait", "5")
    if answer is None or not answer.out:
        return  # the views were just being made: said, and nothing was sent
    results = answer.json["results"]
    rows = {row["id"]: row for row in query(world.data / "views.db", "SELECT * FROM dead_letter_queue")}
    for result in results:
        if result["outcome"] == "completed" and rows[result["id"]]["status"] != "resolved":
            world.violates(f"{result} is said, and the queue has {rows[result['id']]}")
    world.tally["dead letters redriven at the command line"] += sum(
        r["outcome"] != "not_tried" for r in results
    )
    world.did("redrives")
    world.still_runs()


def redrive_cut_short(scene: Scene) -> None:
    """Ctrl-C sends no more, and says how far it came."""
    world = scene.world
    world.progress(100)
    running = world.house.begin(*REDRIVE, "--rate", "5", "--wait", "60")
    patiently(
        lambda: bool(running.err) or running.process.poll() is not None, WITHIN
    )  # it says how many first
    world.pause(world.dice.uniform(0, 3))
    if running.process.poll() is None:
        running.signal(signal.SIGINT)
    code = running.ended(WITHIN)
    #: One that has said its last may be met by the signal while its interpreter ends.
    over = (0, 1, -signal.SIGINT) if running.out else (0, 1)
    if code not in over or "Traceback" in running.err:
        world.violates(f"a redrive that was cut short ended with {code}: {running.err[-1000:]}")
    elif running.out and code == 1 and json.loads(running.out)["stopped"] is None:
        world.note(f"it was through before: {running.out[-200:]}")
    world.did("redrives cut short")
    world.still_runs()


def amended(scene: Scene) -> None:
    """A message is changed, and handled again."""
    world = scene.world
    world.progress(50)
    sql = "SELECT id FROM dead_letter_queue WHERE status = 'failed' AND category = 'action_failed'"
    try:
        letters = query(world.data / "views.db", sql)
    except sqlite3.Error:  # they are just being built anew
        letters = []
    if letters:
        letter = world.dice.choice(letters)["id"]
        _do(world, "dlq", "amend", letter, "--set", "confidence=0.85", "--why", "sure", "--timeout", "20")
        _do(world, "dlq", "retry", letter, "--wait", "2", "--timeout", "20")
        world.did("messages amended at the command line")
    world.still_runs()


def skipped(scene: Scene) -> None:
    """A breaker's event cannot be read: no runner starts before it is skipped, and then one does."""
    world = scene.world
    world.progress(50)
    world.kill()
    found = _damage(world)
    if found is None:
        world.restart()
        return
    remove_views(world.data)
    if world.start() and not world.await_end(PATIENCE):  # a breaker is read once its actor wakes
        world.violates(f"event {found['row']} cannot be read, and a runner starts")
    elif f"leadline events show {found['row']}" not in world.errors() or "Traceback" in world.errors():
        world.violates(f"event {found['row']} cannot be read, and the runner says {world.last_words()}")
    _do(world, "events", "skip", str(found["row"]), "--why", "a bad disk", "--yes")
    world.did("events skipped")
    world.restart()


def _do(world: World, *words: str) -> Answer | None:
    """A command, ended; None where it has failed, which it must say in a sentence."""
    answer = world.house.cli(*words, timeout=WITHIN)
    if answer.code not in (0, 1) or "Traceback" in answer.err:
        world.violates(f"{' '.join(words)} ended with {answer.code}: {answer.err[-1000:]}")
        return None
    return answer


def _damage(world: World) -> Row | None:
    """The newest event of some breaker: older ones need not be read."""
    rows: list[dict[str, Any]] = query(
        world.data / "events.db",
        "SELECT max(rowid) AS row FROM stored_events WHERE originator_id LIKE 'breaker:%' AND state <> x'7b'"
        " GROUP BY originator_id",
    )
    if not rows:
        return None
    row = world.dice.choice(rows)
    execute(world.data / "events.db", "UPDATE stored_events SET state = x'7b' WHERE rowid = ?", (row["row"],))
    return row


GROUP = Group(
    "operators",
    "redrives at the command line, one cut short, an amendment, a damaged event skipped",
    (
        Fault("redrive", redrive),
        Fault("redrive cut short", redrive_cut_short),
        Fault("amend", amended),
        Fault("event skipped", skipped),
    ),
)
