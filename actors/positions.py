"""How far each partition is recorded: what the intake took and what the journal has made durable.

A position is the highest sequence below and at which everything of its partition is recorded. Taken by
the intake's thread, recorded by the journal's, read by anyone; one lock, held for a few dictionary steps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from actors.stream import PARTITIONS
from domain.events import Place


def position_name(partition: int, incarnation: str, partitions: int = PARTITIONS) -> str:
    """The name a position is stored under. Sequences mean something within an incarnation only [H6]."""
    return f"intake:{partitions}:{partition}:{incarnation}"


class Positions:
    """Implements `Recorder`. Every method: any thread, never blocks for long."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self._lock = threading.Lock()
        self._incarnation = ""
        self._partitions = partitions
        #: Per partition: sequence → bytes of what is taken and not recorded, in order of taking.
        self._taken: list[dict[int, int]] = [{} for _ in range(partitions)]
        #: What was taken in an incarnation that has ended: moves no position, but is in hand.
        self._stale: dict[Place, int] = {}
        #: Everything at or below is recorded, or known not to be there.
        self._floor = [0] * partitions
        #: The highest sequence taken.
        self._last = [0] * partitions
        self._written = [0] * partitions
        self._in_hand = 0
        self._bytes = 0
        self._room: tuple[int, int, Callable[[], None]] | None = None

    def begin(self, incarnation: str, positions: Sequence[int]) -> None:
        """From now on sequences are those of `incarnation`, and count from these positions."""
        with self._lock:
            for partition, taken in enumerate(self._taken):
                for sequence, size in taken.items():
                    self._stale[Place(self._incarnation, partition, sequence)] = size
                taken.clear()
            self._incarnation = incarnation
            self._floor = list(positions)
            self._last = list(positions)
            self._written = list(positions)

    def took(self, place: Place, size: int = 0) -> None:
        """An entry of `size` bytes is in hand. Sequences of a partition come in order."""
        _, partition, sequence = place
        with self._lock:
            self._taken[partition][sequence] = size
            self._last[partition] = sequence
            self._in_hand += 1
            self._bytes += size

    def recorded(self, places: Iterable[Place]) -> None:
        """What these entries led to is durable. A place that is not in hand is passed over."""
        with self._lock:
            current, taken = self._incarnation, self._taken
            for place in places:
                life, partition, sequence = place
                size = (
                    taken[partition].pop(sequence, None) if life == current else self._stale.pop(place, None)
                )
                if size is not None:
                    self._in_hand -= 1
                    self._bytes -= size
            told = self._told_of_room()
        if told is not None:
            told()

    def raise_to(self, partition: int, sequence: int) -> bool:
        """Nothing of the partition lies between its position and `sequence`: move there.

        False, and nothing moves, where something at or below it is still in hand.
        """
        with self._lock:
            if self._oldest(partition, sequence + 1) <= sequence:
                return False
            self._floor[partition] = max(self._floor[partition], sequence)
            return True

    def position(self, partition: int) -> int:
        with self._lock:
            return self._position(partition)

    def all(self) -> list[int]:
        """Every partition's position, at one moment."""
        with self._lock:
            return [self._position(partition) for partition in range(self._partitions)]

    def unwritten(self) -> dict[str, int]:
        """Name → position of each that has moved since it was last given here; never backwards."""
        with self._lock:
            moved = {}
            for partition in range(self._partitions):
                position = self._position(partition)
                if position > self._written[partition]:
                    self._written[partition] = position
                    moved[position_name(partition, self._incarnation, self._partitions)] = position
            return moved

    def in_hand(self) -> int:
        """Entries taken and not recorded."""
        return self._in_hand

    def bytes_in_hand(self) -> int:
        return self._bytes

    def when_below(self, entries: int, size: int, tell: Callable[[], None]) -> None:
        """Call `tell` once, on whichever thread records, when fewer than both are in hand; at once if so."""
        with self._lock:
            self._room = (entries, size, tell)
            told = self._told_of_room()
        if told is not None:
            told()

    def _told_of_room(self) -> Callable[[], None] | None:
        if self._room is None or self._in_hand >= self._room[0] or self._bytes >= self._room[1]:
            return None
        told, self._room = self._room[2], None
        return told

    def _position(self, partition: int) -> int:
        oldest = self._oldest(partition, self._last[partition] + 1)
        position = max(self._floor[partition], oldest - 1)
        self._floor[partition] = position
        return position

    def _oldest(self, partition: int, otherwise: int) -> int:
        """Lowest sequence in hand: dictionaries keep the order of taking, which is that of the log."""
        return next(iter(self._taken[partition]), otherwise)
