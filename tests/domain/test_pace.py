"""A target's pace: its rate, and the pauses that it asks for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domain.pace import Pace, let_out, pace_of, paused, resumed, wait_us

SECOND = 1_000_000


def test_without_a_rate_calls_go_out_as_they_come() -> None:
    pace = let_out(pace_of(None), 5 * SECOND)
    assert wait_us(pace, 5 * SECOND) == 0


def test_two_calls_are_an_interval_apart() -> None:
    pace = let_out(pace_of(4), 5 * SECOND)
    assert wait_us(pace, 5 * SECOND) == SECOND // 4
    assert wait_us(pace, 5 * SECOND + SECOND // 4) == 0


def test_a_pause_is_waited_for_and_a_shorter_one_ends_it_no_sooner() -> None:
    pace = paused(paused(pace_of(None), 0, 10 * SECOND), SECOND, SECOND)
    assert wait_us(pace, SECOND) == 9 * SECOND
    assert wait_us(resumed(pace), SECOND) == 0


def test_the_longer_of_pause_and_interval_counts() -> None:
    pace = paused(let_out(pace_of(1), 0), 0, SECOND // 2)
    assert wait_us(pace, 0) == SECOND


@given(
    st.sampled_from([0.5, 1, 3, 1000]),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.booleans()), max_size=50),
)
def test_no_two_calls_are_closer_than_the_rate_and_none_goes_into_a_pause(
    rate: float, steps: list[tuple[int, bool]]
) -> None:
    pace: Pace = pace_of(rate)
    now = last = -10 * SECOND
    pause_ends = now
    for passes, pauses in steps:
        now += passes
        if pauses:
            pace = paused(pace, now, SECOND)
            pause_ends = now + SECOND
        elif wait_us(pace, now) == 0:
            assert last == -10 * SECOND or now - last >= round(SECOND / rate)
            assert now >= pause_ends
            pace, last = let_out(pace, now), now
