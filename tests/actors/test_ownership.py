"""One owner of a data folder at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from actors.ownership import DataFolderLock

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
