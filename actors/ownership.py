"""Who owns a data folder, or a part of the work on it: one process at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO


class DataFolderLock:
    """One owner of a data folder at a time; a killed owner leaves nothing to clean up.

    `name` is the file that is locked: another one is another part of the work.
    """

    def __init__(self, folder: Path, name: str = "owner.lock") -> None:
        self._path = folder / name
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Whether this process owns the folder now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
