"""Secrets: where one is to be found, and its text for as long as it is right."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_BYTES = 65_536


class UnreadableSecretError(Exception):
    """A secret that is not where the settings say. Its text says where, never what."""


class Secret:
    """Read from a variable or a file when its text is first asked for, and again after `forget`. Any thread.

    `repr` says where it comes from, so that a secret that ends up in a log or an error is none there.
    """

    def __init__(self, *, env: str | None = None, file: str | None = None) -> None:
        self._env = env
        self._file = file
        self._text: str | None = None
        #: Every text that it ever had: what must not be said, also after it was mended.
        self.texts: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"the variable {self._env}" if self._env is not None else f"the file {self._file}"

    def text(self) -> str:
        """Raises `UnreadableSecretError`."""
        text = self._text
        if text is None:
            text = self._read()
            self.texts |= {text}
            self._text = text
        return text

    def forget(self) -> None:
        """Read it again when it is asked for next: somebody may have mended it."""
        self._text = None

    def _read(self) -> str:
        found = self._read_file(Path(self._file)) if self._file is not None else self._read_variable()
        text = found.strip()
        if not text:
            raise UnreadableSecretError(f"{self!r} holds no secret")
        if not text.isprintable():
            raise UnreadableSecretError(f"{self!r} holds a line break or another control character")
        return text

    def _read_variable(self) -> str:
        return os.environ.get(self._env or "", "")

    def _read_file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                return file.read(_MAX_BYTES).decode()
        except OSError as error:
            raise UnreadableSecretError(f"{self!r} cannot be read: {error.strerror or 'I/O error'}") from None
        except UnicodeDecodeError:
            raise UnreadableSecretError(f"{self!r} is not UTF-8") from None
