"""Where results and replies begin, and begin again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from domain.errors import LeadlineError
from outbox.position import (
    OutboxPosition,
    PositionFile,
    advanced,
    forget,
    read_position,
    settle,
)
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


def told(*messages: str, lead: str = "+49 151/1") -> Story:
    story = Story()
    for message in messages:
        LeadStory(story, lead=lead).whole(message)
    return story


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


def settled(path: Path, said: list[str], **store: str) -> Callable[[Story], OutboxPosition]:
    return lambda story: settle(path, MemoryLog(story.recorded, **store), said.append)


def moved(path: Path, story: Story, to: int) -> None:
    """Everything up to an event is out."""
    with closing(PositionFile(path)) as file:
        standing = file.read()
        assert standing is not None
        file.write(advanced(standing, story.recorded[to - 1]))


def test_with_a_new_store_it_begins_at_the_beginning_and_says_nothing(path: Path, said: list[str]) -> None:
    assert settled(path, said)(Story()).position == 0
    assert said == []
    assert settled(path, said)(told("m1")).position == 0, "it has a position: nothing is left out"


def test_beside_a_store_with_history_it_begins_at_the_end_and_says_so(path: Path, said: list[str]) -> None:
    assert settled(path, said)(told("m1", "m2")).position == 10
    [line] = said
    assert "begin after event 10" in line
    assert "never kept for this store" in line


def test_it_goes_on_where_it_stood(path: Path, said: list[str]) -> None:
    story = told("m1", "m2")
    settled(path, said)(Story())
    moved(path, story, 5)
    before = read_position(path)
    assert settled(path, said)(story) == before
    assert before is not None
    assert (before.position, before.event_id) == (5, story.recorded[4].event_id)
    assert said == []


@pytest.mark.parametrize(
    ("store", "other", "why"),
    [
        ({"store_id": "another"}, told("m1", "m2"), "another store's"),
        ({}, told("m1"), "the store is older and ends at 5"),
        ({}, told("m9", "m8", "m7", lead="another"), "event 10 is another one"),
    ],
    ids=["another", "older", "older-and-grown"],
)
def test_beside_another_store_or_an_older_one_it_begins_at_the_end_under_a_new_life_and_says_why(
    path: Path, said: list[str], store: dict[str, str], other: Story, why: str
) -> None:
    story = told("m1", "m2")
    first = settled(path, said)(Story())
    moved(path, story, 10)
    begun = settled(path, said, **store)(other)
    assert begun.position == len(other.recorded)
    assert begun.life != first.life
    [line] = said
    assert why in line


def test_switched_off_it_is_forgotten(path: Path, said: list[str]) -> None:
    settled(path, said)(Story())
    forget(path)
    assert read_position(path) is None
    forget(path)
    assert settled(path, said)(told("m1")).position == 5


def test_what_is_no_position_file_is_none_to_whoever_asks_and_nothing_is_begun_over_it(path: Path) -> None:
    assert read_position(path) is None
    path.write_bytes(b"no database" * 100)
    assert read_position(path) is None
    with pytest.raises(LeadlineError, match="put back a copy of it, or remove it"):
        settle(path, MemoryLog(), print)
