from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from actors.positions import Positions, position_name
from domain.events import Place

LIFE = "7.0"


def place(sequence: int, partition: int = 0, life: str = LIFE) -> Place:
    return Place(life, partition, sequence)


def begun(*positions: int) -> Positions:
    tracker = Positions(partitions=max(2, len(positions)))
    tracker.begin(LIFE, list(positions) if len(positions) > 1 else [0, 0])
    return tracker


def test_a_position_stands_below_the_oldest_entry_in_hand() -> None:
    tracker = begun()
    for sequence in (3, 5, 9):
        tracker.took(place(sequence))
    assert tracker.position(0) == 2
    tracker.recorded([place(5)])
    assert tracker.position(0) == 2
    tracker.recorded([place(3)])
    assert tracker.position(0) == 8
    tracker.recorded([place(9)])
    assert tracker.position(0) == 9
    assert tracker.position(1) == 0


def test_what_is_in_hand_is_counted_in_entries_and_bytes() -> None:
    tracker = begun()
    tracker.took(place(1), 100)
    tracker.took(place(2, partition=1), 50)
    assert (tracker.in_hand(), tracker.bytes_in_hand()) == (2, 150)
    tracker.recorded([place(1), place(1), place(77)])
    assert (tracker.in_hand(), tracker.bytes_in_hand()) == (1, 50)


def test_only_what_has_moved_is_unwritten_and_never_backwards() -> None:
    tracker = begun(10, 20)
    assert tracker.unwritten() == {}
    tracker.took(place(11))
    tracker.recorded([place(11)])
    assert tracker.unwritten() == {position_name(0, LIFE, 2): 11}
    assert tracker.unwritten() == {}
    assert not tracker.raise_to(0, 5) or tracker.position(0) == 11


def test_a_partition_is_not_raised_over_what_is_in_hand() -> None:
    tracker = begun()
    tracker.took(place(5))
    assert not tracker.raise_to(0, 5)
    assert tracker.raise_to(0, 4)
    tracker.recorded([place(5)])
    assert tracker.raise_to(0, 90)
    assert tracker.position(0) == 90


def test_what_was_taken_in_another_incarnation_leaves_the_hand_and_moves_no_position() -> None:
    tracker = begun()
    tracker.took(place(5), 10)
    tracker.begin("7.1", [2, 2])
    tracker.took(place(5, life="7.1"), 10)
    tracker.recorded([place(5)])
    assert tracker.position(0) == 4
    assert tracker.in_hand() == 1
    tracker.recorded([place(5, life="7.1")])
    assert tracker.position(0) == 5
    assert (tracker.in_hand(), tracker.bytes_in_hand()) == (0, 0)


def test_room_is_told_once_when_there_is_room_in_both_measures() -> None:
    tracker, told = begun(), []
    tracker.took(place(1), 100)
    tracker.took(place(2), 1)
    tracker.when_below(2, 50, lambda: told.append(1))
    tracker.recorded([place(2)])
    assert told == []
    tracker.recorded([place(1)])
    tracker.took(place(3), 1)
    tracker.recorded([place(3)])
    assert told == [1]
    tracker.when_below(2, 50, lambda: told.append(2))
    assert told == [1, 2]


@given(st.lists(st.integers(0, 9), unique=True, min_size=1), st.data())
def test_in_any_order_of_recording_nothing_unrecorded_is_ever_below_a_position(
    order: list[int], data: st.DataObject
) -> None:
    tracker = begun()
    taken = sorted(3 * n + 1 for n in order)
    for sequence in taken:
        tracker.took(place(sequence))
    left = set(taken)
    for sequence in data.draw(st.permutations(taken)):
        tracker.recorded([place(sequence)])
        left.discard(sequence)
        assert tracker.position(0) == (min(left) - 1 if left else taken[-1])


def test_one_thread_takes_while_another_records() -> None:
    tracker, count = begun(), 20_000
    taken = threading.Semaphore(0)

    def record() -> None:
        for sequence in range(1, count + 1):
            taken.acquire()
            tracker.recorded([place(sequence)])

    recorder = threading.Thread(target=record)
    recorder.start()
    for sequence in range(1, count + 1):
        tracker.took(place(sequence), 3)
        taken.release()
        assert tracker.position(0) <= sequence
    recorder.join()
    assert (tracker.position(0), tracker.in_hand(), tracker.bytes_in_hand()) == (count, 0, 0)
