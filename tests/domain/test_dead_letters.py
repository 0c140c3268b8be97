"""What people do to dead letters: retry, amend, resolve, discard; each leaves one event [H14]."""

from __future__ import annotations

from typing import Any

import pytest

from domain import commands as co
from domain.events import (
    ActionsPlanned,
    CommandRefused,
    DeadLetterAmended,
    DeadLetterDiscarded,
    DeadLetterResolved,
    DeadLetterRetried,
    IntentDetected,
    MessageCompleted,
    MessageDeadLettered,
    MessageReceived,
    Place,
)
from domain.outcomes import Done, Failed, FailedForGood, Unknown
from tests.support.domain_given import INCARNATION, T0, Story, base_key, dead_letter_id, names, order
from tests.support.domain_rules import playbook

LETTER = dead_letter_id()
KEY = f"{base_key()}/0.create_order"


def dead(message_id: str = "m1") -> Story:
    """An order whose target said no."""
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order(message_id))
    story.answer(FailedForGood("no such product"))
    return story


def retry(command_id: str = "c1", letter: str = LETTER) -> co.RetryDeadLetter:
    return co.RetryDeadLetter(command_id=command_id, by="ann", why="fixed", dead_letter_id=letter)


def resolve(command_id: str = "c1", **fields: Any) -> co.ResolveDeadLetter:
    return co.ResolveDeadLetter(command_id=command_id, by="ann", dead_letter_id=LETTER, **fields)


def discard(command_id: str = "c1") -> co.DiscardDeadLetter:
    return co.DiscardDeadLetter(command_id=command_id, by="ann", dead_letter_id=LETTER)


def amend(command_id: str = "c1", /, **changes: Any) -> co.AmendDeadLetter:
    return co.AmendDeadLetter(
        command_id=command_id, by="ann", why="typo", dead_letter_id=LETTER, changes=changes
    )


def test_a_dead_letter_says_who_what_why_and_how_often() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order(payload='{"as":"published"}'))
    for _ in range(3):
        story.answer(Failed("503"))
        story.wait()
    story.answer(Failed("503"))
    assert story.last(MessageDeadLettered) == MessageDeadLettered(
        LETTER,
        "m1",
        "lead-1",
        "acme-foods",
        "acme",
        1,
        "action_failed",
        "503",
        '{"as":"published"}',
        attempts=4,
        first_attempt_at=T0,
        last_attempt_at=story.now,
    )


def test_a_retry_works_the_message_again_to_success() -> None:
    story = dead()
    assert names(story.command(retry())) == [
        "DeadLetterRetried",
        "IntentDetected",
        "ActionsPlanned",
        "ActionStarted",
    ]
    assert story.last(DeadLetterRetried) == DeadLetterRetried(LETTER, "m1", 2, "c1", "ann", "fixed")
    assert story.last(ActionsPlanned).run == 2
    story.answer(Done())
    assert story.last(MessageCompleted).run == 2
    assert story.state.letters == {}


def test_a_retry_joins_the_end_of_the_queue() -> None:
    story = dead()
    story.receive(order("m2"))
    story.receive("m3")
    assert names(story.command(retry())) == ["DeadLetterRetried"]
    story.answer(Done())
    story.answer(Done())
    assert [event.message_id for event in story.all(MessageCompleted)] == ["m2", "m3", "m1"]


def test_attempts_count_over_all_runs() -> None:
    story = dead()
    story.command(retry())
    story.answer(Failed("503"))
    story.wait()
    story.answer(FailedForGood("no"))
    first, second = story.all(MessageDeadLettered)
    assert (first.attempts, second.attempts) == (1, 3)
    assert (first.run, second.run) == (1, 2)
    assert second.first_attempt_at == first.first_attempt_at


def test_a_message_at_work_cannot_be_retried_again() -> None:
    story = dead()
    story.command(retry("c1"))
    assert names(story.command(retry("c2"))) == ["CommandRefused"]
    assert story.last(CommandRefused).reason == "this message is already back at work"


def test_a_letter_that_is_not_there_is_refused() -> None:
    story = dead()
    story.command(discard("c0"))
    for command in (retry("c1"), resolve("c2"), discard("c3"), amend("c4", text="x")):
        assert names(story.command(command)) == ["CommandRefused"]
        assert story.last(CommandRefused).reason == "this lead has no open dead letter with this id"


def test_discarding_ends_it() -> None:
    story = dead()
    assert story.command(discard()) == [DeadLetterDiscarded(LETTER, "m1", "c1", "ann", "")]
    assert names(story.command(retry("c2"))) == ["CommandRefused"]
    assert story.at_rest


def test_resolving_what_nobody_doubts_means_done() -> None:
    story = dead()
    assert story.command(resolve()) == [DeadLetterResolved(LETTER, "m1", "done", "c1", "ann", "")]
    assert story.state.letters == {}


# amending


def test_an_amended_message_is_planned_anew_by_what_it_says_now() -> None:
    story = dead()
    changes: dict[str, Any] = {
        "intent": "PRICING_INQUIRY",
        "confidence": 1,
        "text": "How much?",
        "suggested_response": "",
    }
    story.command(amend(**changes))
    assert story.last(DeadLetterAmended).changes == {
        "intent": "PRICING_INQUIRY",
        "confidence": 1.0,
        "text": "How much?",
        "suggested_response": None,
    }
    assert story.last(DeadLetterAmended).before == {
        "intent": "ORDER_REQUEST",
        "confidence": 0.95,
        "text": None,
        "suggested_response": None,
    }
    story.command(retry("c2"))
    assert story.last(IntentDetected).handler == "PRICING_INQUIRY"
    assert story.last(MessageCompleted).executed == ("notify_sales",)


def test_an_amended_message_is_carried_out_under_a_key_of_its_own() -> None:
    """A receiver that has seen a key takes nothing else for it, whatever it had said."""
    story = dead()
    assert story.state.letters[LETTER].plan[0].key == KEY
    story.command(amend(entities={"product": "rice"}))
    story.command(retry("c2"))
    assert story.call.key == f"{KEY}#2"
    story.answer(FailedForGood("no rice"))
    story.command(retry("c3"))
    assert story.call.key == f"{KEY}#2", "it is the same message as before"


def may_have_happened() -> Story:
    """An order whose target never answered in time."""
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    for _ in range(3):
        story.answer(Unknown("timed out"))
        story.wait()
    story.answer(Unknown("timed out"))
    assert story.state.letters[LETTER].held_keys
    return story


def test_what_may_have_happened_is_not_amended_until_a_person_has_looked() -> None:
    story = may_have_happened()
    assert names(story.command(amend("c1", entities={"product": "rice"}))) == ["CommandRefused"]
    assert "an attempt of create_order may have happened" in story.last(CommandRefused).reason
    story.command(resolve("c2", outcome="undone"))
    assert names(story.command(amend("c3", entities={"product": "rice"}))) == ["DeadLetterAmended"]
    story.command(retry("c4"))
    assert story.call.key == f"{KEY}#2"
    assert story.call.message.entities == {"product": "rice"}


def test_an_open_question_is_settled_before_its_message_is_amended() -> None:
    """What is tried again asks for what was asked for."""
    story = Story(playbook({"create_order": "once"}))
    story.receive(order())
    story.answer(Unknown("timed out"))
    assert names(story.command(amend(text="x"))) == ["CommandRefused"]
    assert "nobody knows whether create_order happened" in story.last(CommandRefused).reason


def test_what_may_have_happened_is_retried_under_its_key_as_it_is() -> None:
    story = may_have_happened()
    story.command(retry())
    assert story.call.key == KEY


def test_settling_a_compensation_says_nothing_of_a_call_that_may_have_happened() -> None:
    """Asked was what could not be undone; the other is asked for when that is settled."""
    story = Story(playbook({"notify_sales": "keyed", "create_order": "keyed"}))
    story.receive(order())
    first = story.call.key
    story.answer(Done({}))
    for _ in range(3):
        story.answer(Unknown("timed out"))
        story.wait()
    story.answer(Unknown("timed out"))
    assert story.call.key == f"{first}/undo"
    story.answer(FailedForGood("too late to cancel"))
    story.command(resolve("c1", outcome="undone"))
    assert names(story.command(amend("c2", text="x"))) == ["CommandRefused"]
    story.command(resolve("c3", outcome="undone"))
    assert names(story.command(amend("c4", text="x"))) == ["DeadLetterAmended"]


def test_amended_entities_take_the_place_of_the_old_ones() -> None:
    story = dead()
    story.command(amend(entities={"product": "phone\0", "colour": ""}))
    assert story.last(DeadLetterAmended).changes == {"entities": {"product": "phone\ufffd"}}
    assert story.last(DeadLetterAmended).before == {"entities": {"product": "laptop"}}
    story.command(retry("c2"))
    assert story.call.message.entities == {"product": "phone\ufffd"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"message_id": "m2"},
        {"lead_id": "other"},
        {"tenant_id": "globex"},
        {"payload": "{}"},
        {"key": "x"},
        {"intent": ""},
        {"intent": "x" * 65},
        {"intent": "a\0"},
        {"intent": None},
        {"confidence": 2},
        {"confidence": -0.1},
        {"confidence": "0.9"},
        {"confidence": True},
        {"confidence": 10**19},
        {"entities": {"product": 7}},
        {"entities": None},
        {"entities": ["a"]},
        {"text": 7},
        {"text": "x" * 300_000},
        {"text": "fine", "nonsense\0": 1},
    ],
)
def test_an_amendment_obeys_the_wires_own_rules(changes: dict[str, Any]) -> None:
    story = dead()
    assert names(story.command(amend(**changes))) == ["CommandRefused"]
    reason = story.last(CommandRefused).reason
    assert reason
    assert "\0" not in reason
    assert len(reason) < 400
    assert story.state.letters[LETTER].message == story.last(MessageReceived)


def test_what_an_amendment_says_is_kept_without_control_characters() -> None:
    """H17: PostgreSQL refuses NUL."""
    story = dead()
    story.command(amend(text="a\0b", suggested_response="c\x07d", entities={"e\0": "f\0", "empty": ""}))
    message = story.state.letters[LETTER].message
    assert (message.text, message.suggested_response) == ("a\ufffdb", "c\ufffdd")
    assert message.entities == {"e\ufffd": "f\ufffd"}


# idempotent by command id


def test_a_refused_command_stays_refused_under_its_id() -> None:
    story = Story(playbook({"create_order": "keyed"}))
    story.receive(order())
    early = retry("c1")
    assert names(story.command(early)) == ["CommandRefused"]
    story.answer(FailedForGood("no"))
    assert story.command(early) == []
    assert story.crash().command(early) == []
    assert story.state.commands["c1"][0] == "this message is already back at work"
    assert names(story.command(retry("c2")))[0] == "DeadLetterRetried"


def test_a_command_that_was_carried_out_is_known_by_its_id() -> None:
    story = dead()
    story.command(amend("c1", text="x"))
    assert story.command(amend("c1", text="y")) == []
    assert story.crash().command(discard("c1")) == []
    assert story.state.commands["c1"][0] == ""


def test_a_command_the_log_hands_out_again_is_skipped() -> None:
    story = dead()
    place = story.next_place()
    story.tell(amend("c1", text="x"), place=place)
    assert story.tell(amend("c2", text="y"), place=place) == []
    assert story.tell(amend("c3", text="y"), place=Place(INCARNATION, 3, place.sequence + 1)) != []


def test_every_command_leaves_its_id_in_exactly_one_event() -> None:
    story = dead()
    commands = [resolve("a", outcome="undone"), amend("b", text="x"), retry("c"), discard("d"), resolve("e")]
    for command in commands:
        events = story.command(command)
        assert [getattr(event, "command_id", None) for event in events].count(command.command_id) == 1


def test_resuming_a_lead_that_is_not_stopped_is_refused() -> None:
    story = Story()
    assert story.command(co.ResumeLead(command_id="c1", by="ann", why="try")) == [
        CommandRefused("c1", "resume_lead", "ann", "try", "this lead is not stopped")
    ]


def test_the_keys_of_a_lead_are_its_own() -> None:
    assert dead().last(MessageReceived).key == base_key()
