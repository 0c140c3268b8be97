"""What `evolve` makes of fixed histories, held to the number of its rules: a snapshot of other rules is not read.

`golden/snapshots.json` has, for each shape of a state, a digest of it after each history. Lines are added, never
changed: a digest that has changed under its shape would let a new release trust snapshots of an old one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import Struct

from domain import codec, lead, rejects, work
from domain.events import Recorded
from domain.lead import LeadState
from domain.rejects import RejectsState
from domain.snapshots import Snapshots

GOLDEN = Path(__file__).parent / "golden"
DIGESTS: dict[str, dict[str, str]] = json.loads((GOLDEN / "snapshots.json").read_text(encoding="utf-8"))
#: Stores as `test_first_release` has them; the second was made of random walks through sagas, commands and rejects.
HISTORIES = ("store.v0.1.0", "histories.v1")


class Kept(NamedTuple):
    """A kind of state that is kept in snapshots."""

    streams: str
    kind: Any
    evolve: Callable[[Any, Recorded], Any]
    rules: int


KEPT = (
    Kept("lead:", LeadState, lead.evolve, lead.RULES),
    Kept("rejects:", RejectsState, rejects.evolve, rejects.RULES),
)


def read(name: str) -> Iterator[Recorded]:
    for line in (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        stream, version, stored_name, row = json.loads(line)
        yield codec.decode(stored_name, row.encode(), stream, version)


def digest(kept: Kept, name: str) -> str:
    """Of the states after every single event of a history's streams."""
    found = sha256()
    states: dict[str, Any] = {}
    for recorded in read(name):
        stream = recorded.stream
        if not stream.startswith(kept.streams):
            continue
        if recorded.version == 1:
            states[stream] = kept.kind(stream)
        kept.evolve(states[stream], recorded)
        found.update(repr(plain(states[stream])).encode())
    return found.hexdigest()[:32]


def plain(value: Any) -> Any:
    """A state by its fields, in an order of its own only where it has one."""
    if isinstance(value, Struct):
        return [(name, plain(getattr(value, name))) for name in value.__struct_fields__]
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, set):
        return sorted(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.kind.__name__)
def test_who_changes_what_evolve_yields_raises_its_rules(kept: Kept, name: str) -> None:
    shape = Snapshots(kept.kind, kept.rules).shape
    found = digest(kept, name)
    known = DIGESTS.get(shape, {}).get(name)
    assert known is not None, f"add to golden/snapshots.json, under {shape!r}: {name!r}: {found!r}"
    assert found == known, f"evolve makes another {kept.kind.__name__} of {name}: raise RULES beside it"


@pytest.mark.parametrize("name", HISTORIES)
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept.kind.__name__)
def test_a_state_comes_back_from_its_snapshot_as_it_was(kept: Kept, name: str) -> None:
    snapshots = Snapshots(kept.kind, kept.rules)
    states: dict[str, Any] = {}
    for recorded in read(name):
        if recorded.stream.startswith(kept.streams):
            if recorded.version == 1:
                states[recorded.stream] = kept.kind(recorded.stream)
            state = kept.evolve(states[recorded.stream], recorded)
            assert plain(snapshots.decode(snapshots.encode(state))) == plain(state)
    assert states


def test_every_event_that_changes_a_state_is_in_the_histories() -> None:
    there = {type(recorded.event) for name in HISTORIES for recorded in read(name)}
    changing = {*lead._APPLY, *work.CHANGES, *rejects._APPLY}
    assert not changing - there, [kind.__name__ for kind in changing - there]
