"""The tests' own language: what it says when a test fails, and that it notices what it should."""

from __future__ import annotations

import pytest

from domain.events import DuplicateDetected
from domain.lead import LeadState
from domain.retry import RetryPolicy
from tests.support.domain_given import STREAM, Story, assert_same, given, message
from tests.support.domain_rules import playbook


def test_a_failure_prints_both_lists_side_by_side() -> None:
    received = Story().receive("m1")
    when = given(*received).when(message("m1"))
    when.then(DuplicateDetected("m1"))
    with pytest.raises(AssertionError) as failure:
        when.then(DuplicateDetected("other"), DuplicateDetected("m1"))
    text = str(failure.value)
    assert "EXPECTED" in text
    assert "≠ DuplicateDetected(message_id='other'" in text
    assert "got      DuplicateDetected(message_id='m1'" in text


def test_a_failure_over_names_prints_them_too() -> None:
    with pytest.raises(AssertionError, match="≠ Nothing"):
        given().when(message("m1")).then_names("Nothing")


def test_a_state_that_replay_would_not_give_is_noticed() -> None:
    story = Story()
    story.receive("m1")
    story.state.tasks["nobody recorded"] = "pending"
    with pytest.raises(AssertionError, match="rebuilt differs from live"):
        assert_same(story.state, story.rebuilt())
    assert_same(LeadState(STREAM), LeadState(STREAM))


def test_rules_can_change_between_what_was_and_what_comes() -> None:
    rules = playbook({"notify_sales": "keyed"}, retry=RetryPolicy(delays=()))
    given().under(rules).when(message("m1")).then_names(
        "MessageReceived", "IntentDetected", "ActionsPlanned", "ActionStarted"
    )
