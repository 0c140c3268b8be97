"""What a group of faults is, and the scene that a fault acts in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.verify.publisher import Publisher
from tests.verify.workload import Workload
from tests.verify.world import World


class Scene(NamedTuple):
    """A fault is handed all of it, acts, and leaves a world in which everything runs again."""

    world: World
    workload: Workload
    publisher: Publisher
    #: Messages in a burst.
    burst: int = 10_000


Act = Callable[[Scene], None]


class Fault(NamedTuple):
    name: str
    act: Act


class Group(NamedTuple):
    """One file's faults. `begin` is done before the runner starts, `end` once all are through."""

    name: str
    says: str
    faults: Sequence[Fault] = ()
    begin: Act | None = None
    end: Act | None = None
    #: Intents that the group adds to the workload.
    intents: tuple[str, ...] = ()
    #: A module of the user's own that the settings name.
    module: str = ""
