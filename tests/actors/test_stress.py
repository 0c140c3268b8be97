"""Many leads, few threads, constant sleep, targets of every temper, and crashes at random moments."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from actors.directory import LeadLimits
from actors.recovery import unfinished_leads
from actors.scheduler import Scheduler
from domain import events as ev
from domain.breaker import BreakerPolicy
from domain.events import Recorded
from domain.retry import RetryPolicy
from tests.support.actors_outside import HeldTarget, Poison
from tests.support.actors_system import ActorSystem, Boot, Log
from tests.support.eventually import eventually

LEADS = 60
MESSAGES = 1500
CRASHES = 6
TEMPER = ("done", "done", "fail", "done", "unknown", "done", "fail_for_good", "done", "done", "a bug")
RETRY = RetryPolicy(tuple(timedelta(milliseconds=n) for n in (1, 2, 4)))
POLICY = BreakerPolicy(open_us=3_000, open_cap_us=10_000, failure_rate=0.6)


class MachinesClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def write_traffic(log: Log, dice: random.Random) -> None:
    """Orders and questions in random turns, with duplicates, bodies that are none, and two kinds of poison."""
    ids: dict[str, int] = defaultdict(int)
    for _ in range(MESSAGES):
        lead = f"lead-{dice.randrange(LEADS)}"
        kind = dice.random()
        if kind < 0.05 and ids[lead]:
            log.message(f"m{dice.randrange(ids[lead])}", lead)
            continue
        if kind < 0.08:
            log.raw(b"not json", lead)
            continue
        message_id = f"m{ids[lead]}"
        ids[lead] += 1
        if kind < 0.6:
            log.order(message_id, lead)
        elif kind < 0.65:
            log.message(message_id, lead, intent="COMPLAINT")
        else:
            log.message(message_id, lead)


def next_process(boot: Boot, log: Log, targets: dict[str, HeldTarget]) -> ActorSystem:
    living: list[ActorSystem] = []

    def tell(address: str, message: object) -> None:
        if living and not living[0].dead:
            living[0].directory.tell(address, message)

    scheduler = Scheduler(tell)
    system = boot(
        log,
        targets,
        read=False,
        clock=MachinesClock(),
        timers=scheduler,
        retry=RETRY,
        policy=POLICY,
        limits=LeadLimits(max_living=5, idle_sweeps=0, restart_delays=(0.001, 0.002)),
    )
    living.append(system)
    scheduler.start()
    system.directory.wake(unfinished_leads(system.store))
    return system


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_done_twice_or_out_of_order_whatever_dies(boot: Boot, seed: int) -> None:
    dice = random.Random(seed)
    log = Log()
    write_traffic(log, dice)
    targets = {
        "create_order": HeldTarget("keyed", dice.sample(TEMPER, len(TEMPER)), cycle=True),
        "notify_sales": HeldTarget("none", dice.sample(TEMPER, len(TEMPER)), cycle=True),
        "create_support_ticket": HeldTarget("once", ("done", "done", "fail", "unknown"), cycle=True),
    }
    system = next_process(boot, log, targets)
    for _ in range(CRASHES):
        for _ in range(dice.randrange(1, 8)):
            system.read(limit=dice.randrange(1, 60))
            system.directory.sweep()
            threading.Event().wait(dice.random() * 0.02)  # a moment that is random is what is tested
            if dice.random() < 0.5:
                system.checkpoint()
        system.crash()
        system = next_process(boot, log, targets)
    system.read()

    def at_an_end() -> bool:
        system.directory.sweep()
        return (
            system.position_is_complete()
            and system.calls.count() == 0
            and not unfinished_leads(system.store)
            and system._idle()
        )

    eventually(at_an_end, within=100, every=0.05)
    assert not system.deaths
    assert_every_promise(system, log, targets)


def assert_every_promise(system: ActorSystem, log: Log, targets: dict[str, HeldTarget]) -> None:
    everything = system.everything()
    assert_one_disposition_each(everything, log)
    assert_in_order(everything)
    assert_effects_as_recorded(everything, targets)
    for partition in range(16):
        last = max((e.sequence for e in log.entries if e.partition == partition), default=0)
        assert system.positions.position(partition) == last


def key_of(event: ev.Event) -> str:
    return f"{getattr(event, 'message_id', '')}"


def assert_one_disposition_each(everything: list[Recorded], log: Log) -> None:
    """Each (lead, message id) is received once and ends once; each entry that is none is rejected once."""
    received: dict[tuple[str, str], int] = defaultdict(int)
    ended: dict[tuple[str, str], int] = defaultdict(int)
    rejected = 0
    for recorded in everything:
        event, place = recorded.event, (recorded.stream, key_of(recorded.event))
        received[place] += isinstance(event, ev.MessageReceived)
        ended[place] += isinstance(event, ev.MessageCompleted | ev.MessageDeadLettered)
        rejected += isinstance(event, ev.MessageRejected)
    taken = {place for place, count in received.items() if count}
    assert all(received[place] == 1 and ended[place] == 1 for place in taken)
    assert rejected == sum(entry.body == b"not json" for entry in log.entries)
    places = {r.place for r in everything if r.place is not None}
    assert len(places) == len(log.entries), "an entry of the log has left no event"


def assert_in_order(everything: list[Recorded]) -> None:
    """Received in the order of the log, planned and ended in the order received."""
    sequences: dict[str, list[int]] = defaultdict(list)
    stories: dict[tuple[str, str], list[str]] = defaultdict(list)
    for recorded in everything:
        event, stream = recorded.event, recorded.stream
        if isinstance(event, ev.MessageReceived | ev.DuplicateDetected) and recorded.place:
            sequences[stream].append(recorded.place.sequence)
        for kind in (ev.MessageReceived, ev.IntentDetected):
            if isinstance(event, kind):
                stories[stream, kind.__name__].append(event.message_id)
        if isinstance(event, ev.MessageCompleted | ev.MessageDeadLettered):
            stories[stream, "ended"].append(event.message_id)
    assert all(found == sorted(found) for found in sequences.values())
    for (stream, story), ids in stories.items():
        assert ids == stories[stream, "MessageReceived"], (stream, story)


def assert_effects_as_recorded(everything: list[Recorded], targets: dict[str, HeldTarget]) -> None:
    """What is recorded as done was done; what may be called once only was; each task exists once."""
    executed = [r.event for r in everything if isinstance(r.event, ev.ActionExecuted)]
    assert len({e.task.task_id for e in executed}) == len(executed)
    started: dict[str, list[int]] = defaultdict(list)
    for recorded in everything:
        if isinstance(recorded.event, ev.ActionStarted):
            started[recorded.event.key].append(recorded.event.attempt)
    for action, target in targets.items():
        done = set(target.effects())
        with_target = {e.key for e in executed if e.action == action and e.attempts}
        assert with_target <= done, "recorded as done, and nothing happened"
        calls: dict[str, list[int]] = defaultdict(list)
        for request in target.requests:
            calls[request.key].append(request.attempt)
        assert calls.keys() <= started.keys(), "a call that no event announced"
        for key, attempts in calls.items():
            assert len(attempts) == len(set(attempts)), f"an attempt was made twice: {key} {attempts}"
        if target.idempotency == "once":
            said = [key for key, outcome in target.outcomes if type(outcome).__name__ in {"Done", "Unknown"}]
            assert len(said) == len(set(said)), "what may happen once only happened twice"


def test_poison_among_the_traffic_stops_its_lead_alone(boot: Boot) -> None:
    log, poison = Log(), Poison("poison")
    for n in range(400):
        log.message(f"m{n}", f"lead-{n % 20}")
        if n == 200:
            log.message("poison", "lead-3", intent="POISON")
    system = boot(log, modules=(poison.module(),), limits=LeadLimits(max_living=4, restart_delays=()))
    system.settle(within=60)
    assert system.position_is_complete()
    for lead in set(range(20)) - {3}:
        assert system.kinds(f"lead-{lead}").count("MessageCompleted") == 20
    recorded = system.kinds("lead-3").count("MessageCompleted")
    kept = sum(isinstance(r.event, ev.MessageRejected) for r in system.everything())
    assert recorded + kept == 21
