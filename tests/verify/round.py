"""One round: a seed's conditions, workload and faults, from an empty folder to a verdict."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cli import status
from domain import commands as co
from domain import events as ev
from domain.commands import encode_command
from domain.errors import LeadlineError
from domain.tokens import encode
from settings import load
from tests.support.system_sql import query
from tests.support.system_wire import Entry
from tests.verify import evidence, invariants, stuck, world
from tests.verify.conditions import LONG_PLAN, LONG_PLANS, MODULE, settings
from tests.verify.evidence import Evidence
from tests.verify.faults.group import Fault, Group, Scene
from tests.verify.people import People
from tests.verify.publisher import Publisher
from tests.verify.servers import target_servers
from tests.verify.stuck import StuckDetector
from tests.verify.workload import BUSINESSES, Sent, Workload
from tests.verify.world import World

#: After the last fault everything must be at rest within so long.
IDLE_WITHIN = 120.0


class Plan(NamedTuple):
    """What a round consists of."""

    seed: int
    groups: Sequence[Group]
    messages: int = 3000
    faults: int = 10
    burst: int = 10_000


class Verdict(NamedTuple):
    """What came of a round."""

    plan: Plan
    folder: Path
    violations: list[str]
    tally: Counter[str]


def play(plan: Plan, folder: Path) -> Verdict:
    """The whole round. What it leaves stays in `folder`."""
    folder.mkdir(parents=True)
    share = 0.2 if any(group.name == "targets" for group in plan.groups) else 0.0
    with (
        target_servers(folder / "house", plan.seed, share) as targets,
        world.made(folder, plan.seed, settings(plan.seed, plan.groups, targets.tables()), BUSINESSES) as made,
    ):
        intents = (LONG_PLAN, *(intent for group in plan.groups for intent in group.intents))
        publisher = Publisher(made)
        scene = Scene(made, Workload(plan.seed, plan.messages, intents), publisher, plan.burst)
        detector = StuckDetector(made)
        try:
            _act(scene, plan)
            _come_to_rest(scene)
            _judge(made)
            _rest_is_rest(made)
        finally:
            detector.stop()
            publisher.stop()
    for name, dealt in targets.dealt.items():
        made.tally[f"calls that went wrong at {name}"] += dealt.total()
    return Verdict(plan, folder, made.violated, made.tally)


def drawn(plan: Plan) -> list[tuple[Group, Fault]]:
    """The round's faults, in order: each group in turn, and of each what the seed gives."""
    dice = random.Random(f"{plan.seed}/plan")
    with_faults = [group for group in plan.groups if group.faults]
    if not with_faults:
        return []
    turns = [with_faults[n % len(with_faults)] for n in range(plan.faults)]
    dice.shuffle(turns)
    decks: dict[str, list[Fault]] = {}
    chosen = []
    for group in turns:
        deck = decks.setdefault(group.name, [])
        if not deck:
            deck += dice.sample(list(group.faults), len(group.faults))
        chosen.append((group, deck.pop()))
    return chosen


def _act(scene: Scene, plan: Plan) -> None:
    """A share of the messages before each fault, so that it falls into work."""
    made = scene.world
    (made.house.folder / f"{MODULE}.py").write_text(LONG_PLANS)
    for group in plan.groups:
        if group.begin is not None:
            group.begin(scene)
    made.start()
    people = People(made, scene.publisher)
    faults = drawn(plan)
    share = plan.messages // (len(faults) + 1)
    try:
        for group, fault in faults:
            scene.publisher.put(scene.workload.some(share))
            made.note(f"--- {group.name}: {fault.name}")
            made.tally[f"faults of group {group.name}"] += 1
            fault.act(scene)
        scene.publisher.put(scene.workload.some(share))
        if not scene.publisher.wait(60):
            made.violates("NATS did not confirm everything within 60 s of the last fault")
        made.pause(2.0)  # people have a last look at what the faults left
        for group in plan.groups:
            if group.end is not None:
                group.end(scene)
        if not people.let_all_go_on(IDLE_WITHIN):
            made.violates(
                f"{IDLE_WITHIN:g} s after the faults a lead still waits for a person or a target's configuration"
            )
    finally:
        people.stop()


def _come_to_rest(scene: Scene) -> None:
    """Idle within a bounded time; then every stopped lead is let go, and it must come to rest again."""
    made = scene.world
    made.note("--- coming to rest")
    made.still_runs()
    for _ in range(5):
        if not _idle(made):
            return
        resumes = list(_resumes(made))
        if not resumes:
            return
        scene.publisher.put(resumes)
        scene.publisher.wait(30)
    made.violates("leads are stopped again and again, and their code is mended")


def _resumes(made: World) -> list[Sent]:
    """A command for each lead that is still stopped."""
    rows = query(
        made.data / "views.db",
        "SELECT DISTINCT business_id, lead_id FROM dead_letter_queue"
        " WHERE category = 'lead_stopped' AND status = 'failed'"
        " UNION SELECT business_id, lead_id FROM unfinished WHERE waiting_for = 'lead resume'",
    )
    sent = []
    for row in rows:
        made.tally["stopped leads resumed at the end"] += 1
        number = made.tally["stopped leads resumed at the end"]
        command = co.ResumeLead(command_id=f"resume-{made.seed}-{number}", by="eve", why="mended")
        subject = f"leads.cmd.{encode(row['business_id'])}.{encode(row['lead_id'])}"
        sent.append(Sent(Entry(subject, encode_command(command)), "commands"))
    return sent


def _idle(made: World) -> bool:
    overrides = {"data": str(made.data), "nats.url": made.server.url}
    own = load(made.house.folder / "leadline.toml", env={}, overrides=overrides)
    try:
        still = status.wait_until_idle(own, IDLE_WITHIN).open
    except (LeadlineError, OSError) as error:
        still = [str(error)]
    if still:
        made.violates(f"not idle {IDLE_WITHIN:g} s after the faults: {'; '.join(still)}")
        stuck.dump(made, "not idle")
    return not still


def _judge(made: World) -> None:
    made.note("--- judging")
    found = evidence.gather(made.data, made.server.url, made.businesses, made.confirmed, made.house.folder)
    made.judge(found, (*invariants.ALWAYS, *invariants.AT_REST))
    made.tally["entries of the log"] += len(found.log)
    made.tally["events"] += len(found.events)
    made.tally["calls of targets"] += len(found.ledger)
    for what, number in counted(found).items():
        made.tally[what] += number


def counted(found: Evidence) -> Counter[str]:
    """What this round's invariants had to judge, beside what it was asked to do."""
    kinds = Counter(one.kind for one in found.out)
    repeated = len(found.out) - len({one.headers.get("Nats-Msg-Id") for one in found.out})
    behind = sum(event.behind is not None for _, event in evidence.of_type(found.events, ev.MessageReceived))
    expired = len(evidence.of_type(found.events, ev.ReplyExpired))
    opened = [event for _, event in evidence.of_type(found.events, ev.BreakerOpened)]
    return Counter(
        {
            "results in LEADS_OUT": kinds["results"],
            "results that came again": repeated,
            "replies in LEADS_OUT": kinds["replies"],
            "replies that came too late": expired,
            "messages that waited behind a dead letter": behind,
            "breakers opened": len(opened),
            "breakers opened for their configuration": sum(event.configuration for event in opened),
            "targets switched off until the next start": sum(event.switched_off for event in opened),
        }
    )


def _rest_is_rest(made: World) -> None:
    """An orderly end, and a start after it: nothing is left that would begin anew."""
    made.still_runs()
    before = _facts(made.data)
    made.terminate()
    if not made.start():
        made.violates(f"the runner does not start again: {made.last_words()}")
        return
    if _idle(made):
        after = _facts(made.data)
        if after != before:
            made.violates(f"a start at rest recorded {after - before} events")
    made.terminate()


def _facts(data: Path) -> int:
    """Events of leads and rejects; a breaker may half-open whenever its time is up."""
    sql = "SELECT COUNT(*) AS n FROM stored_events WHERE originator_id NOT LIKE 'breaker:%'"
    return int(query(data / "events.db", sql)[0]["n"])
