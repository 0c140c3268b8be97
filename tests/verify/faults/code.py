"""Handlers, actions and targets of the user's own that raise, loop, or return nonsense for some leads."""

from __future__ import annotations

from tests.support.system_sql import query
from tests.verify.faults.group import Act, Fault, Group, Scene
from tests.verify.world import World, patiently

#: Within so long others must go on: some times `leads.give_up_seconds`, on a busy machine.
OTHERS_WITHIN = 60.0

MODULE = "own_code"

OWN_CODE = '''
"""Code of the user's own, with every kind of defect; the file `mended` in this folder mends those of the actions."""

import ctypes
import sys
import time
from datetime import timedelta
from pathlib import Path

from actors.executors.executor import Executor, lead_fields, task_fields
from actors.targets.scripted import ScriptedTarget
from domain.actions import ActionSpec
from domain.intents.handler import IntentHandler, Plan

MENDED = Path("mended")


def raises(message, band):
    raise ValueError("this handler cannot")


def ends(message, band):
    sys.exit(3)


def loops(message, band):
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        pass
    return Plan(("notify_sales",), "That took long.")


def endless(message, band):
    while not MENDED.exists():
        pass
    return Plan(("notify_sales",), "At last.")


def blocked(message, band):
    while not MENDED.exists():
        ctypes.CDLL(None).sleep(600)  # no exception reaches it there
    return Plan(("notify_sales",), "At last.")


def nonsense(message, band):
    return {"actions": "all of them"}


def wrong_fields(message, band):
    return Plan(("notify_sales", 7), 9)


def unheard_of(message, band):
    return Plan(("call_the_moon",), "Calling.")


def cursed(message, band):
    return Plan(("create_order", "curse"), "Oh.")


def courier(message, band):
    return Plan(("notify_sales", "call_courier"), "On its way.")


class Cursed(dict):
    """Raises inside the lead's own code, for half of the leads."""

    def get(self, key, default=None):
        if not MENDED.exists():
            raise LookupError("cursed")
        return default


def broken_fields(call):
    if call.message.lead_id.endswith(("1", "3", "5")) and not MENDED.exists():
        raise KeyError("no such address")
    while call.message.lead_id.endswith("4") and not MENDED.exists():
        pass
    return lead_fields(call)


class Courier:
    """Takes every call; with some leads' it then never comes back."""

    idempotency = "keyed"

    def __init__(self, given):
        self.taken = ScriptedTarget("keyed", ("done",), ledger=Path("call_courier.ledger.jsonl"))

    def call(self, request):
        outcome = self.taken.call(request)
        while request.lead_id.endswith("8") and not MENDED.exists():
            pass
        return outcome


HANDLERS = [
    IntentHandler("RAISES", raises), IntentHandler("ENDS", ends), IntentHandler("LOOPS", loops),
    IntentHandler("ENDLESS", endless), IntentHandler("BLOCKED", blocked),
    IntentHandler("NONSENSE", nonsense), IntentHandler("WRONG_FIELDS", wrong_fields),
    IntentHandler("UNHEARD_OF", unheard_of), IntentHandler("CURSED", cursed), IntentHandler("COURIER", courier),
]


def spec(name, **more):
    return ActionSpec(name, name, name, "team", "sales", timedelta(hours=1), "normal", **more)


EXECUTORS = [
    Executor(spec("curse", priority_for=Cursed()), "curse", "uncurse", lead_fields, task_fields),
    Executor(spec("call_courier"), "courier.call", "courier.cancel", broken_fields, task_fields),
]
'''

#: Rare ones once, so that most of the work is not about them.
INTENTS = ("RAISES", "ENDS", "NONSENSE", "WRONG_FIELDS", "UNHEARD_OF", "COURIER")


def begin(scene: Scene) -> None:
    (scene.world.house.folder / f"{MODULE}.py").write_text(OWN_CODE)


def end(scene: Scene) -> None:
    (scene.world.house.folder / "mended").touch()
    scene.world.did("defects in the user's code, mended at the end")


def some_of(intent: str, count: int, what: str) -> Act:
    def act(scene: Scene) -> None:
        """A few messages of it, between others."""
        scene.publisher.put(scene.workload.some(20))
        scene.publisher.put(scene.workload.of_intent(intent, count))
        scene.world.did(what)
        scene.world.pause(1.0)
        scene.world.still_runs()

    return act


def never_ends(intent: str, what: str) -> Act:
    def act(scene: Scene) -> None:
        """More leads than there are threads in the pool: all others go on all the same, and before long."""
        world = scene.world
        scene.publisher.put(scene.workload.of_intent(intent, 3))
        scene.publisher.put(scene.workload.some(20))
        scene.publisher.wait(30)
        last = max(confirmed.sequence for confirmed in world.confirmed)
        if not patiently(lambda: not _unrecorded(world, last), OTHERS_WITHIN, every=0.5):
            world.violates(f"leads whose code never ends hold up others: {world.last_words()}")
        world.did(what)
        world.still_runs()

    return act


def _unrecorded(world: World, last: int) -> set[int]:
    """Sequences of messages, up to one, that have left no event; one of a stopped lead is rejected."""
    sql = "SELECT DISTINCT json_extract(state, '$.place[2]') AS at FROM stored_events WHERE json_valid(state)"
    recorded = {row["at"] for row in query(world.data / "events.db", sql)}
    sent = {one.sequence for one in world.confirmed if one.subject.startswith("leads.in.")}
    return {sequence for sequence in sent - recorded if sequence <= last}


GROUP = Group(
    "code",
    "a handler, an action or a target's code that raises, loops, or returns nonsense for some leads",
    (
        Fault("lead's code raises", some_of("CURSED", 3, "messages at which a lead's code raises, sent")),
        Fault("handler loops", some_of("LOOPS", 3, "messages at which a handler loops, sent")),
        Fault(
            "handler never ends", never_ends("ENDLESS", "messages at which a handler loops for ever, sent")
        ),
        Fault("handler blocks", never_ends("BLOCKED", "messages at which a handler blocks for ever, sent")),
    ),
    begin,
    end,
    INTENTS,
    MODULE,
)
