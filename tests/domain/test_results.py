"""Results: what became of a message, whatever way it went, and however much of its lead's history is in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import cast

import msgspec
import pytest
from msgspec.structs import fields

from domain import codec
from domain import commands as co
from domain.errors import UnknownEventError
from domain.events import (
    DeadLetterResolved,
    Event,
    MessageCompleted,
    MessageDeadLettered,
    MessageReceived,
    MessageRejected,
    Recorded,
)
from domain.outcomes import Done, FailedForGood, Unknown
from domain.ports import EventLog
from domain.results import FOLLOWED, Ended, Result, Results, result_of
from tests.support.domain_given import STREAM, T0, Story, dead_letter_id, order
from tests.support.domain_rules import playbook

WHO = {"by": "ann", "why": "seen"}


class History:
    """`EventLog`, as far as results need it, over the histories of leads; counts what is read."""

    def __init__(self, history: Iterable[Recorded]) -> None:
        self.history = list(history)
        self.taken = 0

    def backwards(self, stream: str, before: int | None = None) -> Iterable[Recorded]:
        for recorded in reversed(self.history):
            if recorded.stream == stream and (before is None or recorded.version < before):
                self.taken += 1
                yield recorded


def follower(history: Iterable[Recorded] = (), kept: int = 10) -> tuple[Results, History]:
    log = History(history)
    return Results(cast("EventLog", log), kept), log


def results(history: Sequence[Recorded], *, from_version: int = 1) -> list[Result]:
    """What a follower gives that begins at a version of the lead's history."""
    return [ended.result for ended in ends(history, from_version=from_version)]


def ends(history: Sequence[Recorded], *, from_version: int = 1, kept: int = 10) -> list[Ended]:
    fold, _ = follower(history, kept)
    followed = (r for r in history if r.version >= from_version and type(r.event) in FOLLOWED)
    return [ended for ended in map(fold.apply, followed) if ended is not None]


def failing() -> Story:
    """An order, its first action done and its second refused for good."""
    story = Story(playbook({"create_order": "keyed", "notify_sales": "keyed"}))
    story.receive(order())
    story.answer(Done())
    story.answer(FailedForGood("no such lead"))
    return story


def test_a_completed_message_says_what_was_done_and_what_the_lead_is_told() -> None:
    story = Story()
    story.receive(order(suggested_response="On its way."))
    [result] = results(story.history)
    assert (result.disposition, result.success, result.should_escalate) == ("completed", True, False)
    assert result.executed_actions == ("create_order", "notify_sales")
    assert (result.failed_actions, result.compensated_actions) == ((), ())
    assert result.response == "On its way."
    assert (result.message_id, result.lead_id, result.business_id) == ("m1", "lead-1", "acme-foods")
    assert (result.tenant_id, result.at) == ("acme", T0)


def test_an_action_with_several_targets_is_named_once_whatever_became_of_its_steps() -> None:
    story = Story(playbook({"create_order": ("keyed", "keyed"), "notify_sales": ("keyed", "keyed")}))
    story.receive(order("m1"))
    for _ in range(4):
        story.answer(Done())
    story.receive(order("m2"))
    for outcome in (Done(), Done(), Done(), FailedForGood("no such lead"), Done(), Done(), Done()):
        story.answer(outcome)
    done, dead = results(story.history)
    assert done.executed_actions == ("create_order", "notify_sales")
    assert (dead.executed_actions, dead.failed_actions) == (("create_order",), ("notify_sales",))
    assert dead.compensated_actions == ("create_order",)


def test_a_plan_that_wants_a_person_says_so() -> None:
    story = Story()
    story.receive("m1", intent="COMPLAINT")
    assert results(story.history)[0].should_escalate


def test_a_dead_letter_says_what_was_done_failed_and_undone_and_tells_the_lead_nothing() -> None:
    story = failing()
    story.answer(Done())
    [result] = results(story.history)
    assert (result.disposition, result.success, result.should_escalate) == ("dead_lettered", False, True)
    assert result.executed_actions == ("create_order",)
    assert result.failed_actions == ("notify_sales",)
    assert result.compensated_actions == ("create_order",)
    assert (result.response, result.category) == (None, "action_failed")
    assert result.dead_letter_id == dead_letter_id()
    assert result.error == "no such lead"


def test_a_retry_that_ends_well_is_a_result_of_its_own() -> None:
    story = failing()
    story.answer(Done())
    story.command(co.RetryDeadLetter(command_id="c1", dead_letter_id=dead_letter_id(), **WHO))
    story.answer(Done())
    story.answer(Done())
    first, second = results(story.history)
    assert (first.disposition, second.disposition) == ("dead_lettered", "completed")
    assert second.executed_actions == ("create_order", "notify_sales")
    assert (second.failed_actions, second.compensated_actions) == ((), ())
    assert second.dead_letter_id == first.dead_letter_id
    assert second.response


@pytest.mark.parametrize("unsure", ["create_order", "notify_sales"], ids=["the-first", "the-last"])
def test_what_a_person_settles_as_done_completes(unsure: str) -> None:
    story = Story(playbook({unsure: "once"}))
    story.receive(order())
    story.answer(Unknown("no answer"))
    story.command(
        co.ResolveDeadLetter(command_id="c1", dead_letter_id=dead_letter_id(), outcome="done", **WHO)
    )
    first, second = results(story.history)
    assert first.failed_actions == (unsure,)
    assert (second.disposition, second.success) == ("completed", True)
    assert set(second.executed_actions) == {"create_order", "notify_sales"}
    assert second.failed_actions == ()


def test_a_discarded_dead_letter_has_no_second_result() -> None:
    story = failing()
    story.answer(Done())
    story.command(co.DiscardDeadLetter(command_id="c1", dead_letter_id=dead_letter_id(), **WHO))
    assert len(results(story.history)) == 1


def test_a_duplicate_has_a_result_of_its_own() -> None:
    story = Story()
    story.receive("m1")
    story.receive("m1")
    assert [(r.disposition, r.success) for r in results(story.history)] == [
        ("completed", True),
        ("duplicate", True),
    ]


@pytest.mark.parametrize("kept", [1, 10])
def test_wherever_a_follower_begins_it_gives_the_same_results(kept: int) -> None:
    story = failing()
    story.receive("m2")
    story.answer(Done())
    story.answer(Done())
    story.command(co.RetryDeadLetter(command_id="c1", dead_letter_id=dead_letter_id(), **WHO))
    story.answer(Done())
    story.answer(Done())
    whole = ends(story.history)
    assert [ended.result.disposition for ended in whole] == ["dead_lettered", "completed", "completed"]
    for version in range(1, len(story.history) + 1):
        before = [e for r in story.history[: version - 1] for e in whole if e.event_id == r.event_id]
        later = ends(story.history, from_version=version, kept=kept)
        assert [e.result for e in later] == [e.result for e in whole[len(before) :]], version


def test_of_a_message_that_completes_nothing_is_read_again() -> None:
    story = Story()
    for n in range(20):
        story.receive(order(f"m{n}"))
    fold, log = follower(story.history)
    assert sum(fold.apply(r) is not None for r in story.history) == 20
    assert log.taken == 0


def test_of_a_dead_letter_no_more_is_read_than_its_run() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    for n in range(20):
        story.receive(order(f"m{n}"))
    for _ in range(20):
        story.answer(FailedForGood("no"))
    fold, log = follower(story.history)
    assert sum(fold.apply(r) is not None for r in story.history) == 20
    assert log.taken <= 20 * 5


def test_an_outcome_is_found_in_a_leads_history_and_not_while_it_is_back_at_work() -> None:
    story = failing()
    assert found(story, "m1") is None
    story.answer(Done())
    dead = found(story, "m1")
    assert dead is not None
    assert dead.disposition == "dead_lettered"
    story.receive("m1")
    assert found(story, "m1") == dead
    story.command(co.RetryDeadLetter(command_id="c1", dead_letter_id=dead_letter_id(), **WHO))
    assert found(story, "m1") is None
    assert found(story, "another") is None
    assert found(Story(), "m1") is None


def found(story: Story, message_id: str) -> Result | None:
    return result_of(cast("EventLog", History(story.history)), STREAM, message_id)


# rejects


def rejected(**fields: object) -> Recorded:
    event = MessageRejected(
        "reject-1",
        "rejected",
        "not JSON",
        "leads.in.acme-foods.=2B49",
        "{",
        1,
        "+49",
        "acme-foods",
        "m1",
        "acme",
    )
    return Recorded("rejects:3", 1, msgspec.structs.replace(event, **fields), "id-1", T0, position=7)


def apply(recorded: Recorded, history: Sequence[Recorded] = ()) -> Ended | None:
    return follower(history)[0].apply(recorded)


def test_a_reject_whose_ids_can_be_read_has_a_result() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ended = apply(msgspec.structs.replace(rejected(), trace=trace))
    assert ended is not None
    assert ended.tokens == ("acme-foods", "=2B49")
    assert (ended.position, ended.event_id, ended.trace) == (7, "id-1", trace)
    result = ended.result
    assert (result.disposition, result.success, result.should_escalate) == ("rejected", False, True)
    assert (result.category, result.error) == ("rejected", "not JSON")
    assert result.trace_id == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "fields",
    [
        {"message_id": None},
        {"lead_id": None},
        {"business_id": None},
        {"subject": "leads.cmd.acme-foods.=2B49"},
        {"lead_id": "x" * 400},
    ],
)
def test_a_reject_that_belongs_to_nobody_has_none(fields: dict[str, str | None]) -> None:
    assert apply(rejected(**fields)) is None


def test_a_reject_that_a_person_settles_as_done_is_completed() -> None:
    done = Recorded("rejects:3", 2, _resolved("reject-1"), "id-2", T0, position=9)
    ended = apply(done, [rejected()])
    assert ended is not None
    assert (ended.result.disposition, ended.result.success, ended.position) == ("completed", True, 9)
    other = Recorded("rejects:3", 2, _resolved("reject-2"), "id-2", T0, position=9)
    assert apply(other, [rejected()]) is None


def _resolved(dead_letter_id: str) -> Event:
    return DeadLetterResolved(dead_letter_id, "m1", "done", "c1", "ann", "seen")


def test_a_reply_that_a_resumed_lead_gets_too_late_is_no_result() -> None:
    story = Story()
    story.receive("m1")
    before = results(story.history)
    reply = co.ExpireReply(command_id="c1", message_id="m1", window_ended_at=T0, response="yes", **WHO)
    assert len(story.tell(co.RedriveReply(reply, "reject-1"), place=story.next_place())) == 2
    assert results(story.history) == before


# when the lead wrote


def test_when_the_lead_wrote_is_the_latest_of_what_its_messages_say_and_never_later_than_recorded() -> None:
    story = Story()
    story.receive("m1", received_at=T0 + timedelta(days=400))
    assert [ended.wrote for ended in ends(story.history)] == [T0]
    story.now += timedelta(hours=2)
    story.receive("m2", received_at=T0 - timedelta(hours=30))
    assert [ended.wrote for ended in ends(story.history)] == [T0, T0]
    story.receive("m3", received_at=T0 + timedelta(hours=1))
    assert ends(story.history)[-1].wrote == T0 + timedelta(hours=1)


def test_only_what_results_are_made_of_is_followed() -> None:
    assert {MessageReceived, MessageCompleted, MessageDeadLettered, MessageRejected} <= FOLLOWED.keys()
    assert len(FOLLOWED) == 7


def test_what_is_read_of_a_kind_is_a_part_of_it() -> None:
    for kind, part in FOLLOWED.items():
        whole = {field.name: (field.type, field.default) for field in fields(kind)}
        assert {field.name: (field.type, field.default) for field in fields(part)}.items() <= whole.items()


def test_results_of_the_parts_are_those_of_the_events() -> None:
    story = Story()
    story.receive("m1", received_at=T0 - timedelta(hours=3))
    story.receive("m1")
    story.receive("m2", suggested_response="soon")
    history = [msgspec.structs.replace(r, trace="00-abc-def-01") for r in story.history]
    rows = [(r.position, r.stream, r.version, *codec.encode(r)) for r in history]
    parts = codec.decode_rows(rows, codec.decoders_of(FOLLOWED))
    assert {type(r.event) for r in parts}.isdisjoint({MessageReceived, MessageCompleted})
    fold, _ = follower(history)
    assert [ended for ended in map(fold.apply, parts) if ended is not None] == ends(history)
    assert len(ends(history)) == 3


def test_a_part_that_cannot_be_read_is_an_error_that_names_the_row() -> None:
    story = Story()
    story.receive("m1")
    name, state = codec.encode(story.history[0])
    with pytest.raises(UnknownEventError, match=r"event 9 \(message_received\.v1, version 1 of lead:"):
        codec.decode_rows([(9, STREAM, 1, name, state[:-5])], codec.decoders_of(FOLLOWED))
