"""One entry of the log: from its bytes to a mail or a rejection.

The hottest step of the intake, and the only one that looks at what a publisher wrote.
"""

from __future__ import annotations

import re

from actors.positions import Positions
from actors.protocol import Inlet, Mail, Rejection
from domain import tokens
from domain.commands import AnyPersonsCommand, ReceiveMessage, asker_of, decode_command
from domain.errors import Rejected
from domain.events import Place
from domain.messages import MAX_MESSAGE_BYTES, MAX_TOKEN_BYTES, decode_message
from domain.rejects import is_about_reject
from domain.tenants import Tenants

#: https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(
    rb"\r\n(?i:traceparent):[ \t]*((?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})[ \t]*\r\n"
)


class EntryReader:
    """Hands each entry on exactly once, as mail or as rejection. The intake's loop only."""

    def __init__(self, tenants: Tenants, inlet: Inlet, positions: Positions) -> None:
        self._tenants = tenants
        self._inlet = inlet
        self.positions = positions
        self.incarnation = ""

    def read(self, partition: int, sequence: int, subject: list[bytes], headers: bytes, body: bytes) -> None:
        """`subject` is `partition.<p>.<in|cmd>.<business>.<lead>`, split at its dots."""
        place = Place(self.incarnation, partition, sequence)
        self.positions.took(place, len(body))
        trace = traceparent(headers) if headers else ""
        try:
            business, lead = subject[3].decode("ascii"), subject[4].decode("ascii")
            command: ReceiveMessage | AnyPersonsCommand
            if subject[2] == b"in":
                command = ReceiveMessage(decode_message(body, business, lead, self._tenants))
            else:
                command = decode_command(body)
                if not is_about_reject(
                    command
                ):  # a reject is answered for at whatever subject it came to [H13]
                    self._check_address(business, lead)
        except UnicodeDecodeError:
            self._reject(place, subject, body, Rejected("the subject is not made of tokens"), trace)
        except Rejected as rejected:
            self._reject(place, subject, body, rejected, trace)
        else:
            self._inlet.deliver(Mail(tokens.lead_stream(business, lead), place, command, trace))

    def _check_address(self, business: str, lead: str) -> None:
        if self._tenants.find(business) is None:
            raise Rejected(f"unknown business {business!r}: no tenant in the settings has it")
        if len(lead) > MAX_TOKEN_BYTES:
            raise Rejected(f"the lead's token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            tokens.decode(lead)
        except tokens.NotATokenError as error:
            raise Rejected(str(error)) from None

    def _reject(self, place: Place, subject: list[bytes], body: bytes, why: Rejected, trace: str) -> None:
        self._inlet.reject(
            Rejection(
                place,
                printable_subject(subject),
                body[:MAX_MESSAGE_BYTES],
                why.reason,
                message_id=why.message_id,
                tenant_id=why.tenant_id,
                trace=trace,
                size=len(body),
                asker=asker_of(body) if subject[2] == b"cmd" else None,
            )
        )


def traceparent(headers: bytes) -> str:
    """The W3C trace context of a header block, "" where there is none that is valid."""
    if b"raceparent" not in headers and b"RACEPARENT" not in headers:
        return ""
    match = _TRACEPARENT.search(headers)
    return match[1].decode() if match else ""


def printable_subject(subject: list[bytes]) -> str:
    """As published, `leads.…`; bytes that are no text, and control characters, are written as Python writes them."""
    text = b".".join([b"leads", *subject[2:]]).decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
