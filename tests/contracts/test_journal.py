"""The port `Journal`: the one on SQLite, and the fake that the intake's tests use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from actors.event_store import EventStore
from actors.journal import JournalActor, JournalHandle, open_recorder
from actors.positions import Positions
from actors.protocol import Append, AppendResult, Committed, Conflict
from domain import codec
from domain.events import LeadFlagged, Recorded
from tests.support.actors_outside import T0
from tests.support.eventually import eventually
from tests.support.intake_fakes import FakeJournal

STREAM = "lead:acme-foods:lead-1"


class AnyJournal(Protocol):
    """A journal, and the way to read what it has taken."""

    def append(self, append: Append) -> None: ...

    def checkpoint(self, positions: dict[str, int], done: Callable[[], None] | None = None) -> None: ...

    def read_stream(self, stream: str) -> Sequence[Recorded]: ...

    def read_position(self, name: str) -> int | None: ...


class RealJournal(JournalHandle):
    def __init__(self, path: Path) -> None:
        recorder = open_recorder(path)
        self.ref = JournalActor.start(
            recorder, Positions(16), max_appends=100, on_death=lambda error: pytest.fail(str(error))
        )
        actor = self.ref._actor_weakref()
        assert isinstance(actor, JournalActor)
        super().__init__(actor)
        self.store = EventStore(recorder)
        self.read_stream = self.store.stream
        self.read_position = self.store.read_position


@pytest.fixture(params=["sqlite", "fake"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyJournal]:
    if request.param == "fake":
        yield FakeJournal()
        return
    real = RealJournal(tmp_path / "events.db")
    yield real
    real.ref.stop(timeout=5)
    real.store.close()


def rows(version: int, count: int, who: str = "mine") -> tuple[tuple[str, bytes], ...]:
    return tuple(
        codec.encode(Recorded(STREAM, n, LeadFlagged(f"m{n}", "k"), f"{who}-{n}", T0))
        for n in range(version + 1, version + count + 1)
    )


def append(
    journal: AnyJournal, version: int, count: int = 1, who: str = "mine", **fields: Any
) -> AppendResult:
    """The answer; an append is answered exactly once."""
    answers: list[AppendResult] = []
    journal.append(
        Append(STREAM, version, rows(version, count, who), answers.append, **{"append_id": 5, **fields})
    )
    eventually(lambda: len(answers) == 1)
    return answers[0]


def ids(journal: AnyJournal) -> list[str]:
    return [recorded.event_id for recorded in journal.read_stream(STREAM)]


def test_a_committed_append_tells_its_stream_its_last_version_and_its_id(journal: AnyJournal) -> None:
    assert append(journal, 0, 3) == Committed(STREAM, 3, 5)
    assert append(journal, 3, 2, append_id=6) == Committed(STREAM, 5, 6)
    assert ids(journal) == [f"mine-{n}" for n in range(1, 6)]


def test_versions_count_from_one_without_a_gap(journal: AnyJournal) -> None:
    append(journal, 0, 3)
    assert [recorded.version for recorded in journal.read_stream(STREAM)] == [1, 2, 3]


def test_a_writer_that_is_behind_is_told_and_nothing_of_it_is_recorded(journal: AnyJournal) -> None:
    append(journal, 0, 2)
    assert append(journal, 1, 3, "theirs") == Conflict(STREAM, 5)
    assert ids(journal) == ["mine-1", "mine-2"]


def test_an_append_that_is_there_already_by_its_ids_is_committed(journal: AnyJournal) -> None:
    append(journal, 0, 2)
    assert append(journal, 0, 2, append_id=9) == Committed(STREAM, 2, 9)
    assert ids(journal) == ["mine-1", "mine-2"]


def test_a_stream_that_nobody_wrote_is_empty(journal: AnyJournal) -> None:
    assert list(journal.read_stream("lead:acme-foods:nobody")) == []


def test_a_position_is_kept_only_where_it_is_higher(journal: AnyJournal) -> None:
    done: list[int] = []
    for number, position in enumerate((5, 5, 3, 7)):
        journal.checkpoint({"a": position}, lambda number=number: done.append(number))  # type: ignore[misc]
    eventually(lambda: done == [0, 1, 2, 3])
    assert journal.read_position("a") == 7
    assert journal.read_position("b") is None


def test_a_position_before_the_first_entry_is_none(journal: AnyJournal) -> None:
    done: list[int] = []
    journal.checkpoint({"a": 0}, lambda: done.append(1))
    eventually(lambda: done == [1])
    assert not journal.read_position("a")
