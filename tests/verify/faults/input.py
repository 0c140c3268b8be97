"""What publishers send: duplicates from far back, redeliveries after days, hostile bytes, bursts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta

from tests.support.system_wire import Entry, to_own_subject
from tests.verify.faults.group import Fault, Group, Scene
from tests.verify.workload import BUSINESSES, Sent

#: Header that nats-py takes for a status of its own.
_STATUSES = ("100", "404", "408", "409", "503")


def far_duplicates(scene: Scene) -> None:
    """Anything from before, again, in any order, without an id that JetStream would know it by."""
    scene.publisher.put(_again(scene, "far duplicates"))
    scene.world.did("far duplicates sent")
    scene.world.pause(0.5)


def redelivery_after_days(scene: Scene) -> None:
    """Three days later: duplicates. After nine: messages of their own, with keys of their own."""
    world = scene.world
    if world.clock < timedelta(days=9).total_seconds():
        for days in (3, 9):
            world.ask(clock=timedelta(days=days).total_seconds())
            world.pause(0.3)
            scene.publisher.put(_again(scene, f"redelivered after {days} days"))
            scene.publisher.wait(30)
        world.did("redeliveries after days")
    world.still_runs()


def hostile(scene: Scene) -> None:
    """A few of each kind, between good ones of the same leads."""
    scene.publisher.put(hostile_messages(scene.world.dice, scene.workload.bodies[-200:], 80))
    scene.publisher.put(scene.workload.some(20))
    scene.world.did("hostile bytes sent")
    scene.world.pause(0.5)


def burst(scene: Scene) -> None:
    scene.publisher.put(scene.workload.some(scene.burst))
    scene.world.did("bursts")
    scene.publisher.wait(120)
    scene.world.still_runs()


def _again(scene: Scene, counts_as: str) -> Iterator[Sent]:
    bodies = scene.workload.bodies
    for body in scene.world.dice.sample(bodies, min(len(bodies), 120)):
        yield Sent(to_own_subject(body), counts_as)


def hostile_messages(dice: random.Random, bodies: list[bytes], count: int) -> Iterator[Sent]:
    """Good messages made bad in every way that is known, and in some that is not."""
    for _ in range(count if bodies else 0):
        body = dice.choice(bodies)
        good = to_own_subject(body)
        entry = Entry(_bent_subject(dice, good.subject), _bent(dice, body), _bent_headers(dice))
        yield Sent(entry, "hostile messages")


def _bent(dice: random.Random, body: bytes) -> bytes:
    document = json.loads(body)
    field = dice.choice(list(document))
    match dice.randrange(12):
        case 0:
            return body[: dice.randrange(len(body))]
        case 1:
            at = dice.randrange(len(body))
            return body[:at] + bytes([body[at] ^ (1 << dice.randrange(8))]) + body[at + 1 :]
        case 2:
            return dice.randbytes(dice.randrange(400))
        case 3:
            return json.dumps(
                document | {field: dice.choice((None, 7, [], {}, "", -1, 2**63, True))}
            ).encode()
        case 4:
            return json.dumps({name: value for name, value in document.items() if name != field}).encode()
        case 5:
            return json.dumps(document | {"text": "x" * dice.choice((270_000, 1_000_000))}).encode()
        case 6:
            return b"[" * dice.choice((1_000, 200_000)) + body
        case 7:
            return json.dumps(document | {field: f"{document[field]}\0\x1f\u202e"}).encode()
        case 8:
            return json.dumps(document | {"tenant_id": "somebody"}).encode()
        case 9:
            others = [name for name in BUSINESSES if name != document["business_id"]]
            return json.dumps(document | {"business_id": dice.choice(others)}).encode()
        case 10:
            return body.decode().encode("utf-16")
        case _:
            return json.dumps(document | {"messageId": document["message_id"]}).encode()


def _bent_subject(dice: random.Random, subject: str) -> str:
    bent = {0: "leads.in.nobody.=2B49", 1: subject + "=2", 2: subject.lower(), 3: subject.replace("=", "=0")}
    return bent.get(dice.randrange(20), subject)


def _bent_headers(dice: random.Random) -> dict[str, str] | None:
    match dice.randrange(6):
        case 0:
            return {"Status": dice.choice(_STATUSES)}
        case 1:
            return {"traceparent": "00-" + "f" * 400}
        case 2:
            return {"Nats-Msg-Id": "the same for all"}
    return None


GROUP = Group(
    "input",
    "duplicates near and far, redelivery after days, hostile bytes, bursts of 10,000",
    (
        Fault("far duplicates", far_duplicates),
        Fault("redelivery after days", redelivery_after_days),
        Fault("hostile", hostile),
        Fault("burst", burst),
    ),
)
