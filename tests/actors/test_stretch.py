"""Code that does not come back is broken off where Python can, and nothing that it does afterwards counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from actors.stretch import BrokenOff, Stretch
from tests.support.eventually import eventually


class Going:
    """Code in a stretch on a thread of its own; what came of it, once it is over."""

    def __init__(self, code: Callable[[], object]) -> None:
        self.stretch = Stretch()
        self.code = code
        self.ended: list[BaseException | None] = []
        self.after = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        eventually(lambda: bool(self.stretch.stack()) or bool(self.ended))

    def _run(self) -> None:
        try:
            with self.stretch:
                self.code()
        except BaseException as error:
            self.ended.append(error)
        else:
            self.ended.append(None)
        for _ in range(100_000):  # what was raised too late would strike here
            self.after += 1


def loop() -> None:
    while True:
        pass


def stubborn() -> None:
    while True:
        try:
            loop()
        except BaseException:
            time.sleep(0.01)
            return


def test_an_endless_loop_is_broken_off_and_its_thread_goes_on() -> None:
    going = Going(loop)
    assert "in loop" in going.stretch.stack()
    assert going.stretch.break_off()
    eventually(lambda: going.after == 100_000)
    assert [type(error) for error in going.ended] == [BrokenOff]
    assert going.stretch.stack() == ""


def test_what_has_come_back_is_not_broken_off() -> None:
    going = Going(lambda: None)
    eventually(lambda: going.after == 100_000)
    assert not going.stretch.break_off()
    assert going.ended == [None]


def test_code_that_swallows_it_and_comes_back_is_broken_off_all_the_same() -> None:
    going = Going(stubborn)
    assert going.stretch.break_off()
    eventually(lambda: going.after == 100_000)
    assert [type(error) for error in going.ended] == [BrokenOff]


def test_code_that_blocks_outside_python_is_broken_off_once_it_comes_back() -> None:
    gate = threading.Event()
    going = Going(lambda: gate.wait(20))
    assert going.stretch.break_off()
    assert going.stretch.break_off(), "it has not come back yet"
    assert not going.ended
    gate.set()
    eventually(lambda: going.after == 100_000)
    assert [type(error) for error in going.ended] == [BrokenOff]


@pytest.mark.slow
def test_at_whatever_moment_it_is_broken_off_nothing_strikes_beyond_the_stretch() -> None:
    for n in range(300):
        going = Going(lambda n=n: time.sleep(n / 300 * 0.003))  # type: ignore[misc]
        time.sleep(0.002)
        broken = going.stretch.break_off()
        eventually(lambda g=going: g.after == 100_000, every=0.001)  # type: ignore[misc]
        assert [type(error) for error in going.ended] == [BrokenOff if broken else type(None)]
