"""Timers: told when due, replaced by slot, and measured by a clock that nobody can set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from actors.scheduler import Scheduler
from tests.support.eventually import eventually

LONG = timedelta(days=400_000).total_seconds()


class Told:
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.scheduler = Scheduler(lambda address, message: self.told.append((address, message)))


@pytest.fixture
def timers() -> Iterator[Told]:
    one = Told()
    one.scheduler.start()
    yield one
    one.scheduler.stop()
    assert not one.scheduler.alive()


def test_what_is_due_is_told_in_the_order_of_its_time(timers: Told) -> None:
    timers.scheduler.arm("b", 2, 0.06)
    timers.scheduler.arm("c", 3, 0.09)
    timers.scheduler.arm("a", 1, 0.01)
    eventually(lambda: timers.told == [("a", 1), ("b", 2), ("c", 3)])
    assert timers.scheduler.pending() == 0


def test_a_timer_replaces_the_one_in_its_slot_and_no_other(timers: Told) -> None:
    timers.scheduler.arm("a", "long", 60)
    timers.scheduler.arm("a", "watch", 60, "watch")
    timers.scheduler.arm("a", "short", 0.01)
    eventually(lambda: timers.told == [("a", "short")])
    assert timers.scheduler.pending() == 1


def test_a_wait_without_length_is_over_at_once(timers: Told) -> None:
    timers.scheduler.arm("a", 1, 0)
    timers.scheduler.arm("b", 2, -5)
    eventually(lambda: len(timers.told) == 2)


def test_a_wait_longer_than_any_machine_lives_ends_no_thread(timers: Told) -> None:
    timers.scheduler.arm("a", "never", LONG)
    timers.scheduler.arm("b", "soon", 0.01)
    eventually(lambda: timers.told == [("b", "soon")])
    timers.scheduler.arm("c", "later", 0.01)
    eventually(lambda: timers.told[-1] == ("c", "later"))
    assert timers.scheduler.alive()


def test_many_timers_armed_from_many_places_are_each_told_once(timers: Told) -> None:
    for n in range(2000):
        timers.scheduler.arm(f"lead-{n}", n, (n % 7) / 100)
    eventually(lambda: len(timers.told) == 2000)
    assert sorted(message for _, message in timers.told) == list(range(2000))


def test_a_wall_clock_that_is_set_back_holds_up_nobody(timers: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """H16."""
    timers.scheduler.arm("a", "before", 0.1)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 3600)
    timers.scheduler.arm("b", "after", 0.01)
    eventually(lambda: sorted(timers.told) == [("a", "before"), ("b", "after")])


def test_a_timer_that_is_replaced_by_a_longer_one_does_not_run_out_at_its_own_time() -> None:
    timers = Told()
    timers.scheduler.arm("a", "short", 0.01)
    timers.scheduler.arm("a", "long", 0.1)
    timers.scheduler.arm("b", "between", 0.05)
    timers.scheduler.start()
    eventually(lambda: len(timers.told) == 2)
    timers.scheduler.stop()
    assert timers.told == [("b", "between"), ("a", "long")]
