"""One owner of a data folder at a time."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from actors.ownership import LOCK, DataFolderLock, Owner, owner_of, telling
from tests.support.eventually import eventually

HOLD = """
import sys, pathlib
from actors.ownership import DataFolderLock
lock = DataFolderLock(pathlib.Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_owner_and_is_free_once_it_is_released(tmp_path: Path) -> None:
    first, second = DataFolderLock(tmp_path / "new"), DataFolderLock(tmp_path / "new")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    second.release()


def test_a_killed_owner_leaves_nothing_to_clean_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == "True"
        mine = DataFolderLock(tmp_path)
        assert not mine.acquire()
        owner.kill()
        owner.wait(10)
        assert mine.acquire()
        mine.release()


def test_an_owner_says_what_it_is_at_and_nobody_says_it_once_it_is_gone(tmp_path: Path) -> None:
    at = datetime(2026, 11, 2, 8, tzinfo=UTC)
    lock = DataFolderLock(tmp_path)
    assert owner_of(tmp_path) is None
    assert lock.acquire()
    assert owner_of(tmp_path) is None
    drains = Owner(7, "draining", at, at, ("the call a", "the call b"))
    for said in (drains, Owner(7, "working", at)):
        lock.tell(said)
        assert owner_of(tmp_path) == said
    lock.release()
    assert owner_of(tmp_path) is None
    assert lock.acquire(), "whoever asks keeps nobody out"
    lock.release()


def test_what_a_killed_owner_said_last_is_not_believed(tmp_path: Path) -> None:
    said = Owner(7, "working", datetime(2026, 11, 2, 8, tzinfo=UTC))
    (tmp_path / LOCK).write_bytes(msgspec.json.encode(said))
    assert owner_of(tmp_path) is None


def test_a_drain_is_told_until_it_is_over(tmp_path: Path) -> None:
    at = datetime(2026, 11, 2, 8, tzinfo=UTC)
    lock = DataFolderLock(tmp_path)
    assert lock.acquire()
    left = ["a", "b"]
    with telling(lock, lambda: Owner(7, "draining", at, at, tuple(left))):
        eventually(lambda: waits_for(tmp_path) == ("a", "b"))
        left.pop()
        eventually(lambda: waits_for(tmp_path) == ("a",))
    lock.release()


def waits_for(folder: Path) -> tuple[str, ...]:
    owner = owner_of(folder)
    return () if owner is None else owner.waiting_for
