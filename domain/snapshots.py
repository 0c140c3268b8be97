"""A stream's state as bytes: what a replay up to a version gives, so that waking need not replay it all.

A snapshot is worth nothing beyond the time that it saves: one of another shape, or of other rules, is not
read, and the events are replayed instead.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

S = TypeVar("S", bound=Struct)


class Snapshots(Generic[S]):
    """Encodes and decodes one kind of state. Any thread."""

    def __init__(self, kind: type[S], rules: int) -> None:
        """`rules` is raised with each change of what `evolve` makes of an event; a changed Struct tells itself."""
        shape = repr(msgspec.inspect.type_info(kind)).encode()
        #: Stands beside each snapshot: only one with the same shape is read.
        self.shape = f"{kind.__name__}.{rules}.{blake2b(shape, digest_size=8).hexdigest()}"
        self._decoder = msgspec.json.Decoder(kind)

    def encode(self, state: S) -> bytes:
        return msgspec.json.encode(state)

    def decode(self, encoded: bytes) -> S | None:
        """The state; None for bytes that are none."""
        try:
            return self._decoder.decode(encoded)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
