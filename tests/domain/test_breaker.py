"""The circuit breaker's rule: when it opens, for how long, and what closes it again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from domain.breaker import (
    Breaker,
    BreakerPolicy,
    Ended,
    admits,
    came_back,
    evolve,
    let_out,
    probes_left,
    retry_in_us,
    room,
    time_is_up,
    to_us,
)
from domain.events import BreakerClosed, BreakerHalfOpened, BreakerOpened, Event
from tests.support.domain_given import T0, names

SECOND = 1_000_000
START = to_us(T0)
POLICY = BreakerPolicy()
ENDS: tuple[Ended, ...] = get_args(Ended)


class Target:
    """A breaker with its clock, told how calls end."""

    def __init__(self, policy: BreakerPolicy = POLICY) -> None:
        self.policy = policy
        self.breaker = Breaker("crm")
        self.now = START
        self.events: list[Event] = []

    def call(self, *, failed: bool) -> None:
        self.ends("failed" if failed else "well")

    def ends(self, ended: Ended) -> None:
        assert admits(self.breaker, self.policy)
        self.breaker = let_out(self.breaker)
        self.back(ended)

    def back(self, ended: Ended, generation: int | None = None) -> None:
        self.breaker, events = came_back(
            self.breaker,
            self.policy,
            ended,
            error="503",
            now_us=self.now,
            generation=generation,
        )
        self.events += events

    def calls(self, outcomes: Iterable[bool]) -> None:
        for failed in outcomes:
            self.call(failed=failed)

    @property
    def state(self) -> str:
        return self.breaker.state

    def half_open(self) -> None:
        self.now += retry_in_us(self.breaker, self.now)
        self.breaker, events = time_is_up(self.breaker)
        self.events += events


def opened() -> Target:
    target = Target()
    target.calls([True] * 5)
    return target


def probing() -> Target:
    target = opened()
    target.half_open()
    return target


def test_it_opens_at_half_the_calls_failing_once_there_are_five() -> None:
    target = Target()
    target.calls([True] * 4)
    assert (target.state, target.events) == ("closed", [])
    target.call(failed=True)
    assert target.state == "open"
    event = target.events[0]
    assert isinstance(event, BreakerOpened)
    assert (event.name, event.calls, event.failures, event.error) == ("crm", 5, 5, "503")
    assert event.open_for_us == 10 * SECOND
    assert event.retry_at is not None
    assert to_us(event.retry_at) == target.now + 10 * SECOND


def test_fewer_failures_than_the_rate_keep_it_closed() -> None:
    target = Target()
    target.calls([False, False, False, True, True, False, True])
    assert target.state == "closed"
    target.call(failed=True)
    assert target.state == "open"


def test_a_call_that_went_well_never_opens_it() -> None:
    target = Target()
    target.calls([True, True, True, True, False])
    assert target.state == "closed"


def test_what_lies_before_the_window_counts_no_more() -> None:
    target = Target()
    target.calls([True] * 4)
    target.now += 30 * SECOND
    target.call(failed=True)
    assert target.state == "closed"
    assert sum(calls for _, calls, _ in target.breaker.counts) == 1


def test_within_the_window_seconds_add_up() -> None:
    target = Target()
    for _ in range(5):
        target.call(failed=True)
        target.now += 7 * SECOND
    assert target.state == "open"


def test_an_open_breaker_lets_nothing_through_and_says_for_how_long() -> None:
    target = opened()
    assert not admits(target.breaker, POLICY)
    assert retry_in_us(target.breaker, target.now) == 10 * SECOND
    assert retry_in_us(target.breaker, target.now + 4 * SECOND) == 6 * SECOND
    assert retry_in_us(target.breaker, target.now + 11 * SECOND) == 0


def test_probes_that_came_back_well_count_among_those_that_are_let_through() -> None:
    target = probing()
    target.call(failed=False)
    assert target.state == "half_open"
    assert room(target.breaker, POLICY) == POLICY.probes - 1


def test_a_clock_set_back_makes_nobody_wait_longer_than_the_open_time() -> None:
    target = opened()
    assert retry_in_us(target.breaker, target.now - 3600 * SECOND) == 10 * SECOND


def test_a_clock_set_back_counts_into_the_newest_second() -> None:
    target = Target()
    for _ in range(5):
        target.call(failed=True)
        target.now -= SECOND
    assert target.state == "open"


def test_a_clock_that_was_far_ahead_is_forgotten() -> None:
    target = Target()
    target.now += 10**9 * SECOND
    target.calls([False] * 100)
    target.now = START
    target.calls([True] * 5)
    assert target.state == "open"


def test_the_timer_half_opens_it_and_nothing_else() -> None:
    target = probing()
    assert target.state == "half_open"
    assert target.events[-1] == BreakerHalfOpened("crm")
    assert time_is_up(target.breaker) == (target.breaker, ())
    assert time_is_up(Breaker("crm")) == (Breaker("crm"), ())


def test_half_open_lets_a_few_probes_through() -> None:
    breaker = probing().breaker
    for _ in range(2):
        assert admits(breaker, POLICY)
        breaker = let_out(breaker)
    assert not admits(breaker, POLICY)


def test_all_probes_well_close_it_with_a_clean_slate() -> None:
    target = probing()
    target.call(failed=False)
    assert target.state == "half_open"
    assert admits(target.breaker, POLICY)
    target.call(failed=False)
    assert target.events[-1] == BreakerClosed("crm")
    assert target.breaker.counts == ()
    target.calls([True] * 4)
    assert target.state == "closed"


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_the_cap() -> None:
    target = opened()
    seconds = []
    for _ in range(7):
        target.half_open()
        target.call(failed=True)
        seconds.append(target.breaker.open_for_us // SECOND)
    assert seconds == [20, 40, 80, 160, 300, 300, 300]
    assert target.breaker.retry_at_us == target.now + 300 * SECOND


def test_after_closing_it_opens_for_the_first_time_again() -> None:
    target = probing()
    target.call(failed=True)
    target.half_open()
    target.calls([False, False])
    target.calls([True] * 5)
    assert target.breaker.open_for_us == 10 * SECOND


def test_one_probe_well_and_one_failed_opens_it() -> None:
    target = probing()
    target.call(failed=False)
    target.call(failed=True)
    assert target.state == "open"


def test_a_straggler_changes_nothing_while_it_is_open() -> None:
    target = opened()
    for ended in ENDS:
        before = target.breaker
        target.back(ended)
        assert target.breaker == before
    assert len(target.events) == 1


def test_a_straggler_from_before_it_opened_is_no_probe() -> None:
    target = Target()
    sent_in = target.breaker.generation
    target.calls([True] * 5)
    target.half_open()
    for ended in (*ENDS, *ENDS):
        before = target.breaker
        target.back(ended, generation=sent_in)
        assert target.breaker == before


def test_a_probe_counts_in_its_own_generation() -> None:
    target = probing()
    generation = target.breaker.generation
    for _ in range(2):
        target.breaker = let_out(target.breaker)
        target.back("well", generation=generation)
    assert target.state == "closed"


def test_a_429_counts_neither_as_a_failure_nor_as_a_call_that_went_well() -> None:
    target = Target()
    for _ in range(50):
        target.ends("put_off")
    assert (target.state, target.breaker.counts) == ("closed", ())
    target.calls([True] * 5)
    assert target.state == "open"


def test_a_probe_that_is_put_off_proves_nothing_and_leaves_its_place_to_another() -> None:
    target = probing()
    for _ in range(5):
        target.ends("put_off")
    assert (target.state, probes_left(target.breaker, POLICY)) == ("half_open", 2)
    target.calls([False, False])
    assert target.state == "closed"


def test_one_call_refused_because_of_the_configuration_opens_it() -> None:
    target = Target()
    target.calls([False] * 50)
    target.ends("misconfigured")
    [event] = target.events
    assert isinstance(event, BreakerOpened)
    assert (event.configuration, event.switched_off, event.open_for_us) == (True, False, 10 * SECOND)
    assert target.breaker.configuration
    assert not admits(target.breaker, POLICY)


def test_it_is_probed_at_growing_intervals_and_closes_once_that_is_mended() -> None:
    target = Target()
    target.ends("misconfigured")
    seconds = [target.breaker.open_for_us // SECOND]
    for _ in range(6):
        target.half_open()
        assert target.breaker.configuration, "who is held back meanwhile has no deadline either"
        target.ends("misconfigured")
        seconds.append(target.breaker.open_for_us // SECOND)
    assert seconds == [10, 20, 40, 80, 160, 300, 300]
    target.half_open()
    target.calls([False, False])
    assert (target.state, target.breaker.configuration) == ("closed", False)


def test_a_probe_that_fails_otherwise_makes_it_open_for_failures() -> None:
    target = Target()
    target.ends("misconfigured")
    target.half_open()
    target.call(failed=True)
    assert (target.state, target.breaker.configuration) == ("open", False)


def test_a_target_that_is_switched_off_has_no_time_to_be_tried_again() -> None:
    target = Target()
    target.ends("switched_off")
    [event] = target.events
    assert isinstance(event, BreakerOpened)
    assert (event.configuration, event.switched_off, event.retry_at) == (True, True, None)
    before = target.breaker
    target.half_open()  # as a start does
    assert (before.switched_off, target.breaker.switched_off) == (True, False)
    target.call(failed=True)
    assert target.breaker.open_for_us == 20 * SECOND


def test_its_events_give_the_same_breaker_again() -> None:
    target = probing()
    target.call(failed=True)
    replayed = Breaker("crm")
    for event in target.events:
        replayed = evolve(replayed, event)
    assert replayed == target.breaker


@given(st.lists(st.tuples(st.sampled_from([*ENDS, "time", "tick", "back"]), st.integers(0, 40)), max_size=60))
def test_whatever_happens_it_stays_within_its_rules(steps: list[tuple[str, int]]) -> None:
    target = Target()
    for what, seconds in steps:
        if what in ENDS:
            if admits(target.breaker, POLICY):
                target.ends(what)
        elif what == "time":
            target.breaker, events = time_is_up(target.breaker)
            target.events += events
        elif what in {"tick", "back"}:
            target.now += seconds * SECOND * (1 if what == "tick" else -1)
        breaker = target.breaker
        assert 0 <= retry_in_us(breaker, target.now) <= POLICY.open_cap_us
        assert 0 <= breaker.probes_out <= POLICY.probes
        assert len(breaker.counts) <= 31
    after = {
        "BreakerOpened": {"BreakerHalfOpened"},
        "BreakerHalfOpened": {"BreakerOpened", "BreakerClosed"},
        "BreakerClosed": {"BreakerOpened"},
    }
    kinds = names(target.events)
    assert kinds[:1] in ([], ["BreakerOpened"])
    assert all(late in after[early] for early, late in pairwise(kinds))
