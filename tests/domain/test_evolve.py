"""`evolve` is total: what happened, happened. No order of events makes it raise, and none loses its version."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domain import breaker, lead, rejects
from domain.events import STORED_NAMES, Event, Recorded
from domain.lead import LeadState
from domain.outcomes import Failed, FailedForGood
from domain.rejects import RejectsState
from tests.support.domain_given import STREAM, Story, order
from tests.support.domain_invariants import OF_HISTORY
from tests.support.domain_rules import playbook
from tests.support.domain_samples import AT, any_of, sample

#: Events that speak of the same few things, in orders that no lead would ever give.
SAMPLES = st.lists(st.sampled_from([sample(kind) for kind in STORED_NAMES]), max_size=30)
ANYTHING = st.lists(st.one_of([any_of(kind) for kind in STORED_NAMES]), max_size=8)


def fold(events: list[Event]) -> LeadState:
    state = LeadState(STREAM)
    for version, event in enumerate(events, start=1):
        state = lead.evolve(state, Recorded(STREAM, version, event, "id", AT))
    return state


@given(SAMPLES | ANYTHING)
def test_a_lead_takes_any_events_in_any_order(events: list[Event]) -> None:
    assert fold(events).version == len(events)


@given(SAMPLES | ANYTHING)
def test_a_partitions_rejects_take_any_events_of_theirs_in_any_order(events: list[Event]) -> None:
    state = RejectsState("rejects:3")
    for version, event in enumerate(events, start=1):
        state = rejects.evolve(state, Recorded("rejects:3", version, event, "id", AT))
    assert state.version == len(events)


@given(SAMPLES)
def test_a_breaker_takes_any_events_in_any_order(events: list[Event]) -> None:
    state = breaker.Breaker("crm")
    for event in events:
        state = breaker.evolve(state, event)
    assert state.name == "crm"


def test_a_history_that_ends_anywhere_is_taken_up_from_there() -> None:
    whole = Story(playbook({"create_order": "keyed", "notify_sales": "keyed"}))
    whole.receive(order("m1"))
    whole.receive(order("m2"))
    whole.answer(Failed("503"))
    whole.wait()
    whole.answer(FailedForGood("no"))
    whole.answer(FailedForGood("no"))
    for end in range(1, len(whole.history) + 1):
        story = Story(whole.rules, now=whole.now)
        story.history = whole.history[:end]
        story.crash()
        while events := lead.follow(story.state, story.rules, story.now):
            story.record(events)
        assert story.at_rest is (not story.state.queue)
        for holds in OF_HISTORY:
            holds([recorded.event for recorded in story.history])
