"""Events as a story."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cli import story
from domain import events as ev
from domain.events import STORED_NAMES, Event, Recorded

AT = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize("kind", list(STORED_NAMES))
def test_there_are_words_for_every_event(kind: type[Event]) -> None:
    assert kind in story.TELLERS


def test_a_message_and_its_answer_read_like_a_story() -> None:
    history = [
        recorded(0, ev.MessageReceived("m1", "k", "+49", "acme", "t", "UNKNOWN", 0.9, "{}", text="hello")),
        recorded(1.5, ev.IntentDetected("m1", "HELLO", "UNKNOWN", 0.9, "high")),
        recorded(90, ev.ActionsPlanned("m1", 1, (), escalate=True, response="Thanks!")),
        recorded(9000, ev.DeadLetterDiscarded("d", "m1", "c", "anna", "spam")),
    ]
    assert [(when, told) for when, _, told in story.lines(history)] == [
        ("2026-11-02 08:00:00", "wrote m1: “hello”"),
        ("+1.500 s", "the AI read HELLO with confidence 0.90 (high); taken by the rules for UNKNOWN"),
        ("+1 min 30 s", "plan: nothing to do; a person has to look too; the answer is “Thanks!”"),
        ("2026-11-02 10:30:00", "dead letter discarded by anna: spam"),
    ]


def recorded(seconds: float, event: Event) -> Recorded:
    return Recorded("lead:acme:=2B49", 1, event, "id", AT + timedelta(seconds=seconds))
