"""Each invariant can fail: handed the evidence of a real round with one thing falsified, it says so."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from domain import events as ev
from domain.events import Event
from tests.support.system_sql import execute
from tests.verify import evidence as evidences
from tests.verify import faults, invariants
from tests.verify.evidence import Evidence
from tests.verify.invariants import Invariant
from tests.verify.round import Plan, play
from tests.verify.workload import BUSINESSES, PARKS

LEADS_THAT_PARK = f"lead:{PARKS[0]}:"
#: A seed whose conditions have a target that may be called once.
SEED = 5


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """What a short round left, in which nothing was violated."""
    known = faults.discover()
    folder = tmp_path_factory.mktemp("verify") / "round"
    plan = Plan(SEED, [known["targets"], known["code"]], messages=300, faults=2)
    caught: list[Evidence] = []
    gather = evidences.gather

    def gather_and_keep(*args: Any) -> Evidence:
        caught.append(gather(*args))
        return caught[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidences, "gather", gather_and_keep)
        verdict = play(plan, folder)
    assert not verdict.violations
    return caught[0]


def changed(found: Evidence, position: int, **fields: Any) -> None:
    """An event of the evidence with other fields."""
    recorded = found.events[position]
    event = msgspec.structs.replace(recorded.event, **fields)
    found.events[position] = msgspec.structs.replace(recorded, event=event)


def where(found: Evidence, kind: type[Event], holds: Callable[[Any], bool] = lambda _: True) -> int:
    """The index of the first event of a kind for which something holds."""
    return next(
        n
        for n, recorded in enumerate(found.events)
        if isinstance(recorded.event, kind) and holds(recorded.event)
    )


def first(found: Evidence, kind: type[Event], holds: Callable[[Any], bool] = lambda _: True) -> Any:
    return found.events[where(found, kind, holds)].event


def insert(found: Evidence, after: int, event: Event, **envelope: Any) -> None:
    """An event more in the stream of the one that stands there."""
    found.events.insert(after + 1, msgspec.structs.replace(found.events[after], event=event, **envelope))


def twice(found: Evidence, at: int, times: int = 1) -> None:
    """An event once more in its stream, or so many times more."""
    for _ in range(times):
        insert(found, at, found.events[at].event)


def swapped(found: Evidence, one: int, other: int) -> None:
    found.events[one], found.events[other] = found.events[other], found.events[one]


def of_lead(found: Evidence, stream: str, kind: type[Event]) -> list[int]:
    return [n for n, r in enumerate(found.events) if r.stream == stream and isinstance(r.event, kind)]


def streams(found: Evidence, prefix: str) -> list[str]:
    """In the order of their first events; not from `leads`, which is kept as it was first read."""
    names = dict.fromkeys(recorded.stream for recorded in found.events)
    return [name for name in names if name.startswith(prefix)]


def lead_with(
    found: Evidence, kind: type[Event], number: int, *, never: type[Event] | None = None
) -> list[int]:
    """Indexes of the first events of a kind of a lead that has them of so many messages, but for messages with an
    event of another kind."""
    for stream in streams(found, "lead:"):
        left_out = firsts(found, stream, never) if never is not None else {}
        of_kind = firsts(found, stream, kind).items()
        at = [index for message_id, index in of_kind if message_id not in left_out]
        if len(at) >= number:
            return at
    raise LookupError(f"no lead has {number} of {kind}")


def of_the_log(found: Evidence) -> int:
    """The index of the first receipt that no rejection of the same entry stands beside."""
    return where(found, ev.MessageReceived, lambda event: event.redrive_of is None)


# One falsifier for each invariant, of the same name. Rounds differ from run to run, so each has to choose something
# of which the change is a violation whatever else happened to it.


def no_entry_is_recorded_twice(found: Evidence) -> None:
    twice(found, of_the_log(found))


def every_command_is_answered_once(found: Evidence) -> None:
    at = where(found, ev.MessageReceived)
    refused = ev.CommandRefused("cmd-x", "retry_dead_letter", "eve", "", "no")
    insert(found, at, refused)
    insert(found, at, refused)


def each_lead_takes_its_messages_in_stream_order(found: Evidence) -> None:
    swapped(found, *lead_with(found, ev.MessageReceived, 2)[:2])


def a_stopped_lead_records_nothing_until_it_is_resumed(found: Evidence) -> None:
    at = where(found, ev.IntentDetected)
    stopped = ev.LeadStopped(found.events[at].stream, "RuntimeError", "", 3)
    insert(found, at, stopped, stream="rejects:0")


def no_id_takes_effect_twice_within_eight_days(found: Evidence) -> None:
    at = where(found, ev.MessageReceived)
    recorded = found.events[at]
    second = msgspec.structs.replace(recorded.event, key=f"{recorded.event.key}@7")  # type: ignore[attr-defined]
    insert(found, at, second, at=recorded.at + timedelta(days=7, hours=22))


def a_duplicate_is_of_a_message_that_is_there(found: Evidence) -> None:
    changed(found, where(found, ev.DuplicateDetected), message_id="never seen")


def no_position_is_ahead_of_what_is_recorded(found: Evidence) -> None:
    del found.events[of_the_log(found)]


def in_order(found: Evidence) -> None:
    """The first end of a message counts: one that was a dead letter before has ended before."""
    swapped(found, *lead_with(found, ev.MessageCompleted, 2, never=ev.MessageDeadLettered)[:2])


def one_at_a_time(found: Evidence) -> None:
    swapped(found, *lead_with(found, ev.IntentDetected, 2)[:2])


def executed_once(found: Evidence) -> None:
    twice(found, where(found, ev.ActionExecuted))


def undone_in_reverse(found: Evidence) -> None:
    at = where(found, ev.ActionExecuted)
    message_id = found.events[at].event.message_id  # type: ignore[attr-defined]
    for n in (1, 0):  # inserted behind one another: 0 is undone first
        insert(found, at, ev.ActionCompensated(message_id, n, "create_order", f"{n}/undo", "task"))


def nothing_stands_after_an_ordinary_failure(found: Evidence) -> None:
    at = where(found, ev.ActionExecuted)
    message_id = found.events[at].event.message_id  # type: ignore[attr-defined]
    insert(found, at, ev.MessageDeadLettered("d", message_id, "l", "b", "t", 1, "action_failed", "500", "{}"))


def an_action_is_its_steps(found: Evidence) -> None:
    at = where(found, ev.ActionExecuted)
    event: Any = found.events[at].event
    step = ev.StepExecuted(event.message_id, event.n, event.action, event.key, "target")
    found.events[at] = msgspec.structs.replace(found.events[at], event=step)


def parked_ones_wait(found: Evidence) -> None:
    changed(found, where(found, ev.MessageReceived), behind="a dead letter that nobody has")


def calls_alternate(found: Evidence) -> None:
    twice(found, where(found, ev.ActionStarted))


def attempts_are_bounded(found: Evidence) -> None:
    twice(found, where(found, ev.ActionStarted), times=5)


def a_snapshot_is_what_the_events_give(found: Evidence) -> None:
    stream = next(kept.stream for kept in found.snapshots if kept.stream.startswith("lead:"))
    del found.events[of_lead(found, stream, ev.MessageReceived)[0]]


def every_call_was_recorded_before_it_was_made(found: Evidence) -> None:
    found.ledger[0] = found.ledger[0]._replace(attempt=99)


def no_attempt_is_made_twice(found: Evidence) -> None:
    """Once more than its key was started: of these attempts a kill may have kept some from their target."""
    line = next(line for line in found.ledger if line.outcome == "Done")
    started = sum(
        isinstance(one.event, ev.ActionStarted) and one.event.key == line.key for one in found.events
    )
    found.ledger += [line] * started


def what_is_recorded_as_done_was_done(found: Evidence) -> None:
    key = first(found, ev.ActionExecuted, lambda event: event.attempts and not event.settled_by).key
    found.ledger[:] = [line for line in found.ledger if line.key != key]


def a_step_stands_at_most_once(found: Evidence) -> None:
    line = next(line for line in found.ledger if line.effect and not line.key.endswith("/undo"))
    found.ledger.append(line._replace(key=f"{line.key}#2"))


def a_once_target_is_asked_once_for_an_effect(found: Evidence) -> None:
    plans = (recorded.event for recorded in found.events if isinstance(recorded.event, ev.ActionsPlanned))
    once = {step.key for event in plans for step in event.actions if step.idempotency == "once"}
    found.ledger.append(next(line for line in found.ledger if line.effect and line.key in once))


def no_target_sees_another_businesss_calls(found: Evidence) -> None:
    line = found.ledger[0]
    other = next(name for name in BUSINESSES if name != line.business_id)
    found.ledger[0] = line._replace(business_id=other)


def no_deadline_is_set_for_a_configuration(found: Evidence) -> None:
    at = where(found, ev.ActionDeferred, lambda event: event.reason == "target_configuration")
    changed(found, at, deadline=found.events[at].at)


def parking_lead(found: Evidence) -> list[int]:
    """Indexes of the plans of the first lead of a parking business that has two messages planned."""
    for stream in streams(found, LEADS_THAT_PARK):
        at = list(firsts(found, stream, ev.IntentDetected).values())
        if len(at) >= 2:
            return at
    raise LookupError("no lead of a parking business has two messages")


def nothing_passes_an_open_dead_letter(found: Evidence) -> None:
    """The first message is a dead letter just before the second begins."""
    first_one, second = parking_lead(found)[:2]
    message_id = found.events[first_one].event.message_id  # type: ignore[attr-defined]
    letter = ev.MessageDeadLettered(
        "d", message_id, "l", "b", "t", 1, "action_failed", "500", "{}", parks=True
    )
    found.events.insert(second, msgspec.structs.replace(found.events[second], event=letter))


def what_waited_follows_in_order(found: Evidence) -> None:
    """Of two messages that were both there, the later one begins first."""
    for stream in streams(found, LEADS_THAT_PARK):
        one, other = (firsts(found, stream, kind) for kind in (ev.MessageReceived, ev.IntentDetected))
        both = [message_id for message_id in one if message_id in other]
        for before, after in pairwise(both):
            if one[after] < other[before]:
                return swapped(found, other[before], other[after])
    raise LookupError("no lead of a parking business had two messages at once")


def firsts(found: Evidence, stream: str, kind: type[Event]) -> dict[str, int]:
    """Message id → the index of its first event of a kind, in a lead's history."""
    indexes: dict[str, int] = {}
    for at in of_lead(found, stream, kind):
        indexes.setdefault(found.events[at].event.message_id, at)  # type: ignore[attr-defined]
    return indexes


def out_of(found: Evidence, kind: str, number: int = 1) -> list[int]:
    """Indexes of the messages of a kind of the first subject of LEADS_OUT that has so many."""
    for subject in dict.fromkeys(one.subject for one in found.out if one.kind == kind):
        at = [n for n, one in enumerate(found.out) if one.subject == subject]
        if len({found.out[n].event for n in at}) >= number:
            return at
    raise LookupError(f"no lead has {number} {kind}")


def what_is_out_is_what_its_event_says(found: Evidence) -> None:
    """Another business's lead is told."""
    [at, *_] = out_of(found, "replies")
    one = found.out[at]
    other = next(name for name in BUSINESSES if name != one.body["business_id"])
    found.out[at] = one._replace(subject=one.subject.replace(one.body["business_id"], other))


def results_come_in_the_order_of_their_leads_events(found: Evidence) -> None:
    one, *others = out_of(found, "results", 2)
    other = next(n for n in others if found.out[n].event != found.out[one].event)
    found.out[one], found.out[other] = found.out[other], found.out[one]


def each_reply_is_out_once_and_in_order(found: Evidence) -> None:
    found.out.append(found.out[out_of(found, "replies")[0]])


def what_the_outbox_has_passed_is_out(found: Evidence) -> None:
    del found.out[out_of(found, "replies")[0]]


def every_disposition_is_told_and_every_reply_sent_or_a_task(found: Evidence) -> None:
    gone = found.out[out_of(found, "results")[0]].event
    found.out[:] = [one for one in found.out if one.event != gone]


def what_was_confirmed_is_in_the_log(found: Evidence) -> None:
    found.confirmed[0] = found.confirmed[0]._replace(body=b"{}")


def every_entry_has_exactly_one_disposition(found: Evidence) -> None:
    del found.events[of_the_log(found)]


def the_state_accounts_for_every_message(found: Evidence) -> None:
    """A state has a message as completed, and its history has no word of that."""
    done = found.events[lead_with(found, ev.MessageCompleted, 1, never=ev.MessageDeadLettered)[0]]
    found.leads[done.stream].remove(done.event)


def what_has_not_ended_is_named_with_what_it_waits_for(found: Evidence) -> None:
    del found.events[where(found, ev.MessageCompleted)]


def nothing_waits_for_a_target_that_is_mended(found: Evidence) -> None:
    row = {"business_id": "b", "lead_id": "l", "message_id": "m", "waiting_for": "target configuration"}
    found.views["unfinished"].append(row)


def what_a_person_must_settle_is_in_the_queue(found: Evidence) -> None:
    found.views["dead_letter_queue"][0] |= {"id": "nobody's", "status": "failed"}


def what_is_proved_not_to_have_happened_did_not(found: Evidence) -> None:
    insert(found, 0, ev.ActionFailed("m", 0, "create_order", "a/b/m/0.x", 1, "action_failed", "422"))
    found.ledger.append(found.ledger[0]._replace(key="a/b/m/0.x", said="done", repeated=False))


def the_views_equal_a_rebuild(found: Evidence) -> None:
    copied = found.data.with_name("falsified")
    shutil.copytree(found.data, copied, ignore=shutil.ignore_patterns("*.lock", "jetstream"))
    found.data = copied
    execute(copied / "views.db", "UPDATE leads SET messages = messages + 1")


def the_metrics_equal_a_recount(found: Evidence) -> None:
    row = next(row for row in found.views["metrics"] if row["name"] == "message_duplicate_total")
    row["value"] += 1


def each_message_has_one_row_with_its_disposition(found: Evidence) -> None:
    row = next(row for row in found.views["processed_messages"] if row["disposition"] == "completed")
    row["disposition"] = "in_progress"


def no_row_holds_another_businesss_words(found: Evidence) -> None:
    one, other = (
        next(row for row in found.views["tasks"] if row["business_id"] == name)
        for name in list(BUSINESSES)[:2]
    )
    one["description"] = other["description"]


ALL = dict.fromkeys((*invariants.ALWAYS, *invariants.AT_REST))


@pytest.mark.parametrize("invariant", ALL, ids=invariants.name_of)
def test_an_invariant_says_what_was_falsified_and_nothing_of_the_truth(
    truth: Evidence, invariant: Invariant
) -> None:
    falsify = globals()[invariant.__name__]
    assert list(invariant(truth)) == []
    falsified = Evidence(**copy.deepcopy({name: getattr(truth, name) for name in FIELDS}))
    falsify(falsified)
    sentences = list(invariant(falsified))
    assert sentences
    assert all(sentence for sentence in sentences)


FIELDS = tuple(field.name for field in dataclasses.fields(Evidence))
