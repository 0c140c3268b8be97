"""Publishing that is confirmed: many messages as one atomic batch, few one by one, each answered by JetStream.

A batch (ADR-50 of NATS: headers that number its messages, and one answer when all of them are on disk) costs the server
a tenth of what its messages cost singly, since it syncs once. Of a few it costs more.

By hand, as the protocol has it, since this is done once or twice for every message: nats-py's `publish` and its
answer cost some 100 µs, this a tenth.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Struct

from actors.connection import RawClient
from domain.errors import LeadlineError

#: Sent at once, and answered before the next. No batch of JetStream's may be larger.
MAX_AT_ONCE = 1000
#: Fewer are as cheap singly: a batch by itself costs the server as much as sixteen messages (measured, 2.15).
WORTH_A_BATCH = 20
#: Without any answer for so long, what is sent is taken for lost.
PATIENCE_SECONDS = 10.0

#: What goes to LEADS_OUT; only of that are batches made.
_OUT = "leads.out."


class NotConfirmedError(LeadlineError):
    """Not everything was confirmed; the text says why. What was, is gone from what was to be sent."""


class RefusedError(NotConfirmedError):
    """JetStream has answered, and does not take it."""


class TooLargeError(NotConfirmedError):
    """The server takes no message of this size."""


class Publication(Struct, frozen=True, gc=False):
    """One message to publish; `headers` as they stand on the wire, but for the empty line that ends them."""

    subject: str
    headers: str
    body: bytes


#: With the number by which whoever sends it knows it.
_Numbered = tuple[int, Publication]


def header_block(headers: Iterable[tuple[str, str]]) -> str:
    """Headers as `Publication` has them. Values are our own: no line break is in them."""
    return "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers)


class _Answer(Struct):
    error: dict[str, Any] | None = None


class Sender:
    """Publishes over `client` and waits for the answers. One `send` at a time; the event loop's thread."""

    def __init__(self, client: RawClient) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        #: LEADS_OUT takes batches, as `stream.ensure_out` says it.
        self.batches = False
        #: Of nobody else's batches: what a cut connection leaves of one stays with the server for ten seconds.
        self._batch = secrets.token_hex(4)
        #: The number of an answer that is to come, and what it confirms.
        self._waiting: dict[int, list[int]] = {}
        self._unsent: dict[int, Publication] = {}
        self._number = 0
        self._trouble: NotConfirmedError | None = None
        self._answered = asyncio.Event()

    async def open(self) -> None:
        """Once per client."""
        await self._client.subscribe_raw(f"{self._inbox}.*", self._on_answer)
        await self._client.flush()  # what is sent by hand overtakes what nats-py has only buffered

    def cut(self, why: str) -> None:
        """The connection was cut: what is not answered never will be."""
        self._trouble = self._trouble or NotConfirmedError(why)
        self._answered.set()

    async def send(self, publications: dict[int, Publication]) -> None:
        """Publish all; each leaves `publications` when JetStream has confirmed it.

        On each subject in order, whatever happens: what is there of them is a beginning. Raises `NotConfirmedError` at
        the first trouble. What is sent again then may come twice: hence `Nats-Msg-Id`.
        """
        self._waiting.clear()
        self._unsent = publications
        self._trouble = None
        out: list[_Numbered] = []
        commands: list[_Numbered] = []
        for one in publications.items():
            (out if one[1].subject.startswith(_OUT) else commands).append(one)
        for lot in _lots(out):
            if not (self.batches and len(lot) >= WORTH_A_BATCH and await self._together(lot)):
                await self._one_by_one(lot)
        for lot in _lots(commands):
            await self._one_by_one(lot)

    async def _together(self, lot: list[_Numbered]) -> bool:
        """As a batch, of which the last message is answered for all. False where it is refused: some of it is out
        already, or the stream takes none. Singly, JetStream then has its word for each. Of a server that is killed
        amidst, a beginning of it may be out."""
        self._number += 1
        self._waiting[self._number] = [key for key, _ in lot]
        head = f"Nats-Batch-Id: {self._batch}-{self._number}\r\nNats-Batch-Sequence: "
        commands: list[bytes] = []
        for n, (_, publication) in enumerate(lot[:-1], 1):
            commands += self._command(publication, f"{head}{n}\r\n")
        end = f"{head}{len(lot)}\r\nNats-Batch-Commit: 1\r\n"
        commands += self._command(lot[-1][1], end, f" {self._inbox}.{self._number}")
        self._write(commands)
        try:
            await self._answers()
        except RefusedError:
            self._trouble = None
            return False
        return True

    async def _one_by_one(self, lot: list[_Numbered]) -> None:
        """On each subject the next when the one before is confirmed: JetStream may refuse one amidst others."""
        while lot:
            firsts: dict[str, _Numbered] = {}
            later = [one for one in lot if firsts.setdefault(one[1].subject, one) is not one]
            commands: list[bytes] = []
            for key, publication in firsts.values():
                self._number += 1
                self._waiting[self._number] = [key]
                commands += self._command(publication, "", f" {self._inbox}.{self._number}")
            self._write(commands)
            await self._answers()
            lot = later

    def _command(self, publication: Publication, more: str, reply: str = "") -> tuple[bytes, ...]:
        """As the protocol has it, in parts; `more` are headers beside its own."""
        headers = f"{publication.headers}{more}\r\n".encode()
        size = len(headers) + len(publication.body)
        if size > self._client.max_payload:
            raise TooLargeError(
                f"{publication.subject}: {size} bytes, and this server takes {self._client.max_payload};"
                " raise `max_payload` in its configuration"
            )
        line = f"HPUB {publication.subject}{reply} {len(headers)} {size}\r\n".encode()
        return line, headers, publication.body, b"\r\n"

    def _write(self, commands: list[bytes]) -> None:
        if not self._client.write_now(b"".join(commands)):
            raise NotConfirmedError("there is no connection to NATS")

    async def _answers(self) -> None:
        """Until everything is confirmed that was written; raises the first trouble."""
        while self._waiting or self._trouble:
            if self._trouble:
                raise self._trouble
            self._answered.clear()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._answered.wait()
            except TimeoutError:
                raise NotConfirmedError("NATS does not answer") from None

    def _on_answer(self, subject: bytes, _reply: bytes, headers: bytes, body: bytes) -> None:
        keys = self._waiting.pop(int(subject.rpartition(b".")[2]), None)
        if keys is None:
            return  # of an earlier go
        if headers:
            self._trouble = NotConfirmedError("JetStream is not ready")  # a status: nobody takes it
        elif b'"error"' in body:
            self._trouble = RefusedError(_refusal(body))
        else:
            for key in keys:
                self._unsent.pop(key, None)
        self._answered.set()


def _lots(publications: list[_Numbered]) -> Iterator[list[_Numbered]]:
    for start in range(0, len(publications), MAX_AT_ONCE):
        yield publications[start : start + MAX_AT_ONCE]


def _refusal(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Answer).error or {}
    except msgspec.MsgspecError:
        return "JetStream refuses it"
    return f"JetStream refuses it: {error.get('description', 'no reason given')}"
