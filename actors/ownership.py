"""Who owns a data folder, or a part of the work on it: one process at a time.

The owner of a folder says in the lock's file what it is at.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from domain.errors import LeadlineError

LOCK = "owner.lock"
#: How often a draining owner says what it still waits for.
_TELL_SECONDS = 0.2
_TRY_SECONDS = 0.02
#: An owner that has just been told to end may not have said yet that it drains.
_GRACE_SECONDS = 1.0


class Owner(Struct, frozen=True):
    """What the owner of a folder says of itself."""

    pid: int
    state: Literal["working", "draining"]
    since: datetime
    #: When it ends at the latest, where it drains.
    until: datetime | None = None
    #: What it ends without waiting for, once there is nothing of it.
    waiting_for: tuple[str, ...] = ()
    #: Where it serves `/metrics`, while it works.
    metrics: str | None = None
    #: Whose code holds a thread and does not come back.
    hanging: tuple[str, ...] = ()


class DataFolderLock:
    """One owner of a data folder at a time; a killed owner leaves nothing to clean up.

    `name` is the file that is locked: another one is another part of the work.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self._path = folder / name
        self._file: int | None = None
        #: What the owner has said last.
        self.told: Owner | None = None

    def acquire(self) -> bool:
        """Whether this process owns the folder now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def tell(self, owner: Owner) -> None:
        """Say what the owner is at, for whoever asks from outside. Nothing depends on it."""
        if self._file is None:
            return
        self.told = owner
        with suppress(OSError):  # a full disk must not keep anybody from ending in peace
            said = msgspec.json.encode(owner)
            os.pwrite(self._file, said + b"\n", 0)
            os.ftruncate(self._file, len(said) + 1)

    def tell_hanging(self, hanging: tuple[str, ...]) -> None:
        """Say whose code does not come back, where that has changed and the owner is at work."""
        told = self.told
        if told is not None and told.state == "working" and told.hanging != hanging:
            self.tell(msgspec.structs.replace(told, hanging=hanging))

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def owner_of(folder: Path) -> Owner | None:
    """What the folder's owner says of itself; None where nobody owns it, or where it has said nothing yet."""
    try:
        with (folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return msgspec.json.decode(file.read(), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None
    return None  # the lock could be had: whoever wrote there is gone


def own(folder: Path, on_wait: Callable[[Owner], None]) -> DataFolderLock:
    """The folder's lock, held. Waits for an owner that drains; `on_wait` is told once.

    Raises `LeadlineError` where another process holds it, and goes on working.
    """
    lock = DataFolderLock(folder)
    refused_at = time.monotonic() + _GRACE_SECONDS
    told = False
    while not lock.acquire():
        owner = owner_of(folder)
        if owner is not None and owner.state == "draining":
            refused_at = time.monotonic() + _GRACE_SECONDS  # it ends by itself, at its own time limit
            if not told:
                on_wait(owner)
            told = True
        elif time.monotonic() > refused_at:
            raise LeadlineError(
                f"{folder}: another Leadline works on this data folder; stop it, or use --data"
            )
        time.sleep(_TRY_SECONDS)
    lock.tell(Owner(os.getpid(), "working", datetime.now(UTC)))
    return lock


@contextmanager
def telling(lock: DataFolderLock, describe: Callable[[], Owner]) -> Iterator[None]:
    """Say again and again, until the block ends, what `describe` gives. It is called on a thread of its own."""
    over = threading.Event()

    def tell() -> None:
        while True:
            lock.tell(describe())
            if over.wait(_TELL_SECONDS):
                return

    thread = threading.Thread(target=tell, name="drain", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
