"""Publishing that is confirmed: many in flight at once over one connection, in order, each answered by JetStream.

By hand, as the protocol has it, since this is done once or twice for every message: nats-py's `publish` and its
answer cost some 100 µs, this a tenth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from actors.connection import RawClient
from domain.errors import LeadlineError

#: Sent and not answered at once.
MAX_IN_FLIGHT = 1000
#: Without any answer for so long, what is sent is taken for lost.
PATIENCE_SECONDS = 10.0


class NotConfirmedError(LeadlineError):
    """Not everything was confirmed; the text says why. What was, is gone from what was to be sent."""


class TooLargeError(NotConfirmedError):
    """The server takes no message of this size."""


class Publication(Struct, frozen=True, gc=False):
    """One message to publish; `headers` as they stand on the wire."""

    subject: str
    headers: bytes
    body: bytes


def header_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers as they stand on the wire. Values are our own: no line break is in them."""
    return ("NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n").encode()


class _Answer(Struct):
    error: dict[str, Any] | None = None


class Sender:
    """Publishes over `client` and waits for the answers. One `send` at a time; the event loop's thread."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._waiting: dict[int, int] = {}
        self._unsent: dict[int, Publication] = {}
        self._number = 0
        self._trouble = ""
        self._answered = asyncio.Event()

    async def open(self) -> None:
        """Once per client."""
        await self._client.subscribe_raw(f"{self._inbox}.*", self._on_answer)
        await self._client.flush()  # what is sent by hand overtakes what nats-py has only buffered

    def cut(self, why: str) -> None:
        """The connection was cut: what is not answered never will be."""
        self._trouble = self._trouble or why
        self._answered.set()

    async def send(self, publications: dict[int, Publication]) -> None:
        """Publish all, in order; each leaves `publications` when JetStream has confirmed it.

        Raises `NotConfirmedError` at the first trouble. What is sent again then, in order, may come twice: hence
        `Nats-Msg-Id`. After a cut connection order holds, since the server has a beginning of what was sent; after a
        refusal amidst others it may not.
        """
        self._waiting.clear()
        self._unsent = publications
        self._trouble = ""
        left = list(publications.items())
        at = 0
        while at < len(left) or self._waiting:
            room = MAX_IN_FLIGHT - len(self._waiting)
            if at < len(left) and room >= min(MAX_IN_FLIGHT // 2, len(left) - at):
                self._write(left[at : at + room])
                at += room
            await self._wait()

    def _write(self, some: list[tuple[int, Publication]]) -> None:
        commands = bytearray()
        largest = self._client.max_payload
        for key, publication in some:
            size = len(publication.headers) + len(publication.body)
            if size > largest:
                raise TooLargeError(
                    f"{publication.subject}: {size} bytes, and this server takes {largest};"
                    " raise `max_payload` in its configuration"
                )
            self._number += 1
            self._waiting[self._number] = key
            commands += (
                f"HPUB {publication.subject} {self._inbox}.{self._number}"
                f" {len(publication.headers)} {size}\r\n".encode()
            )
            commands += publication.headers
            commands += publication.body
            commands += b"\r\n"
        if not self._client.write_now(bytes(commands)):
            raise NotConfirmedError("there is no connection to NATS")

    async def _wait(self) -> None:
        """For the next answers, or trouble."""
        if not self._trouble:
            self._answered.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._answered.wait()
            except TimeoutError:
                raise NotConfirmedError("NATS does not answer") from None
        if self._trouble:
            raise NotConfirmedError(self._trouble)

    def _on_answer(self, subject: bytes, _reply: bytes, headers: bytes, body: bytes) -> None:
        key = self._waiting.pop(int(subject.rpartition(b".")[2]), None)
        if key is None:
            return  # of an earlier go
        if headers:
            self._trouble = "JetStream is not ready"  # a status: nobody takes it
        elif b'"error"' in body:
            self._trouble = _refusal(body)
        else:
            self._unsent.pop(key, None)
        self._answered.set()


def _refusal(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Answer).error or {}
    except msgspec.MsgspecError:
        return "JetStream refuses it"
    return f"JetStream refuses it: {error.get('description', 'no reason given')}"
