"""A lead's messages take effect one after the other, each once: order, duplicates and forgetting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from domain import commands as co
from domain.commands import ReceiveMessage
from domain.events import (
    ActionExecuted,
    DuplicateDetected,
    IntentDetected,
    MessageCompleted,
    MessageDeadLettered,
    MessageReceived,
    Place,
)
from domain.lead import REMEMBERED, LeadState
from domain.outcomes import Done, Failed, FailedForGood, Unknown
from domain.tokens import encode
from tests.support.domain_given import (
    INCARNATION,
    STREAM,
    T0,
    Story,
    base_key,
    dead_letter_id,
    given,
    message,
    names,
    order,
)
from tests.support.domain_rules import playbook

DAY = timedelta(days=1)


def ordering() -> Story:
    return Story(playbook({"create_order": "keyed"}))


def test_the_receipt_holds_every_field_of_the_message() -> None:
    incoming = order(
        text="One laptop", suggested_response="Sure", received_at=datetime(2020, 1, 1, tzinfo=UTC)
    )
    received = given().when(incoming).events[0]
    assert isinstance(received, MessageReceived)
    for name in ("message_id", "lead_id", "business_id", "tenant_id", "intent", "confidence", "payload"):
        assert getattr(received, name) == getattr(incoming, name)
    for name in ("entities", "text", "suggested_response", "received_at"):
        assert getattr(received, name) == getattr(incoming, name)
    assert received.key == base_key()


def test_a_message_without_calls_is_done_in_one_go() -> None:
    given().when(message()).then_names(
        "MessageReceived", "IntentDetected", "ActionsPlanned", "ActionExecuted", "MessageCompleted"
    )
    completed = Story()
    completed.receive("m1")
    assert completed.last(MessageCompleted) == MessageCompleted("m1", 1, ("notify_sales",), 0)


def test_a_later_message_is_received_at_once_and_waits_for_the_earlier_one() -> None:
    story = ordering()
    story.receive(order("m1"))
    assert names(story.receive("m2")) == ["MessageReceived"]
    assert names(story.receive("m3")) == ["MessageReceived"]
    story.answer(Failed("503"))
    story.wait()
    story.answer(Done())
    assert [event.message_id for event in story.all(IntentDetected)] == ["m1", "m2", "m3"]
    assert [event.message_id for event in story.all(MessageCompleted)] == ["m1", "m2", "m3"]


def test_nothing_of_two_messages_interleaves_through_retries_and_a_crash() -> None:
    story = ordering()
    for n in range(4):
        story.receive(order(f"m{n}"))
    for _ in range(4):
        story.answer(Failed("503"))
        story.crash()
        story.wait()
        story.crash()
        story.answer(Done())
    at_work = [
        getattr(r.event, "message_id", "") for r in story.history if not isinstance(r.event, MessageReceived)
    ]
    assert at_work == sorted(at_work)


def test_a_failed_message_holds_nobody_up() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.receive("m2")
    assert names(story.answer(FailedForGood("no")))[-1] == "MessageCompleted"


def test_the_time_of_processing_counts_from_the_receipt() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.now += timedelta(seconds=2)
    story.answer(Done())
    assert story.last(MessageCompleted).processing_us == 2_000_000


def test_a_clock_set_back_gives_no_negative_time() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.now -= timedelta(hours=2)
    story.answer(Done())
    assert story.last(MessageCompleted).processing_us == 0


# duplicates


def test_an_id_that_comes_again_is_a_duplicate_whatever_its_body() -> None:
    story = Story()
    story.receive("m1")
    assert story.receive("m1", intent="COMPLAINT") == [DuplicateDetected("m1")]
    assert len(story.all(ActionExecuted)) == 1


def test_an_id_that_comes_again_while_it_is_at_work_is_a_duplicate() -> None:
    story = ordering()
    story.receive(order("m1"))
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]
    assert story.crash().receive(order("m1")) == [DuplicateDetected("m1")]


def test_an_id_that_was_dead_lettered_or_discarded_is_a_duplicate() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.answer(FailedForGood("no"))
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]
    story.command(co.DiscardDeadLetter(command_id="c1", by="ann", dead_letter_id=dead_letter_id()))
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]


def test_ids_are_compared_byte_for_byte() -> None:
    story = Story()
    for message_id in ("m1", "M1", "m1 ", "m=31", "é", "e\u0301"):
        assert names(story.receive(message_id))[-1] == "MessageCompleted"
    assert len({event.key for event in story.all(MessageReceived)}) == 6


# what the log hands out again [H6]


def test_what_is_recorded_is_skipped_without_an_event_within_one_incarnation() -> None:
    story = Story()
    place = story.next_place()
    story.tell(ReceiveMessage(message("m1")), place=place)
    assert story.tell(ReceiveMessage(message("m1")), place=place) == []
    assert story.crash().tell(ReceiveMessage(message("m1")), place=place) == []
    earlier = Place(INCARNATION, 3, 0)
    assert story.tell(ReceiveMessage(message("m0")), place=earlier) == []


def test_in_another_incarnation_the_message_id_decides() -> None:
    story = Story()
    for n in range(5):
        story.receive(f"m{n}")
    again = Place("2026-11-02T08:00:00Z.1", 3, 1)
    assert story.tell(ReceiveMessage(message("m0")), place=again) == [DuplicateDetected("m0")]
    new = Place("2026-11-02T08:00:00Z.1", 3, 2)
    assert names(story.tell(ReceiveMessage(message("new")), place=new))[-1] == "MessageCompleted"


def test_a_new_incarnation_counts_from_its_own_sequences() -> None:
    story = Story()
    for n in range(5):
        story.receive(f"m{n}")
    other = "2026-11-03T08:00:00Z.0"
    story.tell(ReceiveMessage(message("a")), place=Place(other, 3, 2))
    assert story.tell(ReceiveMessage(message("b")), place=Place(other, 3, 2)) == []
    assert names(story.tell(ReceiveMessage(message("c")), place=Place(other, 3, 3)))[-1] == "MessageCompleted"


def test_the_events_of_one_entry_move_the_leads_place_once() -> None:
    story = Story()
    story.receive("m1")
    story.receive("m2")
    assert (story.state.incarnation, story.state.sequence) == (INCARNATION, 2)


# redriven rejects


def test_a_redriven_message_counts_once_by_its_dead_letter() -> None:
    story = Story()
    story.receive("m0")
    redrive = ReceiveMessage(message("m1"), redrive_of="letter-1")
    place = Place(INCARNATION, 3, 1)
    assert names(story.tell(redrive, place=place))[-1] == "MessageCompleted"
    assert story.last(MessageReceived).redrive_of == "letter-1"
    assert story.tell(redrive, place=place) == []
    assert story.crash().tell(redrive, place=place) == []


def test_several_redriven_messages_may_come_at_one_place() -> None:
    story = Story()
    place = story.next_place()
    for n in range(3):
        story.tell(ReceiveMessage(message(f"m{n}"), redrive_of=f"letter-{n}"), place=place)
    assert [event.message_id for event in story.all(MessageCompleted)] == ["m0", "m1", "m2"]


def test_a_redriven_message_that_has_taken_effect_meanwhile_is_a_duplicate_that_says_so() -> None:
    story = Story()
    story.receive("m1")
    redrive = ReceiveMessage(message("m1"), redrive_of="letter-1")
    assert story.tell(redrive) == [DuplicateDetected("m1", "letter-1")]
    assert story.tell(redrive) == []


# forgetting [H23]


def test_an_id_is_remembered_for_eight_days_and_an_hour_of_recorded_time() -> None:
    story = Story()
    story.receive("m1")
    story.now = T0 + REMEMBERED
    story.receive("m2")
    assert story.receive("m1") == [DuplicateDetected("m1")]
    assert timedelta(days=8) < REMEMBERED


def test_after_that_it_is_another_life_with_keys_of_its_own() -> None:
    story = Story()
    story.receive("m1")
    story.now = T0 + REMEMBERED + timedelta(seconds=1)
    story.receive("m1")
    first, second = story.all(MessageReceived)
    assert first.key == base_key()
    assert second.key == f"{base_key()}@2"
    tasks = [event.task.task_id for event in story.all(ActionExecuted)]
    assert len(set(tasks)) == 2


def test_a_life_is_told_from_the_first_also_when_the_id_has_been_forgotten() -> None:
    story = Story()
    story.receive("m1")
    story.now = T0 + REMEMBERED + DAY
    story.receive("m2")
    assert "m1" not in story.state.seen
    story.receive("m1")
    assert story.last(MessageReceived).key == f"{base_key()}@3"


def test_what_a_message_says_of_its_time_empties_no_memory() -> None:
    story = Story()
    story.receive("m1")
    story.receive("m2", received_at=datetime(2099, 1, 1, tzinfo=UTC))
    story.receive("m3", received_at=datetime(1970, 1, 1, tzinfo=UTC))
    assert story.receive("m1") == [DuplicateDetected("m1")]


def test_a_clock_set_back_forgets_nothing() -> None:
    story = Story()
    story.receive("m1")
    story.now -= 30 * DAY
    story.receive("m2")
    assert story.receive("m1") == [DuplicateDetected("m1")]


def test_memory_is_bounded_by_time() -> None:
    story = Story(rebuilds=False)
    for n in range(200):
        story.now += DAY / 4
        story.receive(f"m{n}")
    assert len(story.state.seen) <= 8 * 4 + 1


def test_what_a_command_came_to_is_remembered_as_long_as_a_message() -> None:
    story = Story()
    story.command(co.StartTask(command_id="c1", by="ann", task_id="none"))
    story.now = T0 + REMEMBERED
    story.receive("m1")
    assert story.command(co.StartTask(command_id="c1", by="ann", task_id="none")) == []
    for n in range(200):
        story.now += DAY / 4
        story.command(co.StartTask(command_id=f"n{n}", by="ann", task_id="none"))
        story.receive(f"n{n}")
    assert len(story.state.commands) <= 8 * 4 + 1


def test_an_open_dead_letter_is_no_new_life_however_old() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.answer(FailedForGood("no"))
    story.now += 20 * DAY
    story.receive("m2")
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]


def test_a_second_life_takes_over_the_dead_letter_that_was_settled() -> None:
    story = Story(playbook({"create_order": "once"}))
    story.receive(order("m1"))
    story.answer(Unknown("timeout"))
    letter = dead_letter_id()
    resolve = co.ResolveDeadLetter(command_id="c1", by="ann", dead_letter_id=letter, outcome="undone")
    story.command(resolve)
    story.now += 20 * DAY
    story.receive("m2")
    story.receive(order("m1"))
    assert story.call.key == f"{base_key()}@4/0.create_order"
    retry = co.RetryDeadLetter(command_id="c2", by="ann", dead_letter_id=letter)
    assert names(story.command(retry)) == ["CommandRefused"]
    story.answer(FailedForGood("no"))
    assert {event.dead_letter_id for event in story.all(MessageDeadLettered)} == {letter}
    assert len(story.state.letters) == 1


def test_a_message_at_work_is_no_new_life_however_long_it_takes() -> None:
    story = ordering()
    story.receive(order("m1"))
    story.now += 20 * DAY
    story.receive("m2")
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]


def test_a_dead_letter_that_is_being_compensated_is_no_new_life() -> None:
    story = Story(playbook({"create_order": "keyed", "notify_sales": "once"}))
    story.receive(order("m1"))
    story.answer(Done())
    story.answer(Unknown("timeout"))
    story.command(
        co.ResolveDeadLetter(command_id="c1", by="ann", dead_letter_id=dead_letter_id(), outcome="undone")
    )
    story.now += 20 * DAY
    story.receive("m2")
    assert story.receive(order("m1")) == [DuplicateDetected("m1")]


def test_ten_thousand_messages_wait_in_line_without_the_line_slowing_them() -> None:
    story = Story(playbook({"create_order": "keyed"}), rebuilds=False)
    story.receive(order("m0"))
    for n in range(1, 10_000):
        story.receive(f"m{n}")
    assert len(story.state.queue) == 10_000


@pytest.mark.parametrize("message_id", ["a/b", "a:b", "a=2Fb", "a@7", "ü m"])
def test_a_message_id_is_in_its_keys_as_a_token(message_id: str) -> None:
    """H9: beside `/`, `:` and `@`, which part a key, ids of two messages would come to one."""
    story = ordering()
    story.receive(order(message_id))
    assert story.last(MessageReceived).key == f"acme-foods/lead-1/{encode(message_id)}"
    assert story.call.key == f"acme-foods/lead-1/{encode(message_id)}/0.create_order"


def test_a_new_lead_knows_nothing() -> None:
    assert LeadState(STREAM).version == 0
