"""Ids as tokens: the one spelling of an id that is safe in subjects, keys, stream names and UUIDs.

A token is the id with every character outside `A-Za-z0-9_-` written `=XX` (upper case hex) per
UTF-8 byte. It is reversible, and canonical: `decode` refuses any other spelling of the same id.
"""

from __future__ import annotations

import re
from hashlib import sha1
from typing import NewType
from uuid import UUID

from domain.errors import LeadlineError

LeadId = NewType("LeadId", str)
BusinessId = NewType("BusinessId", str)
MessageId = NewType("MessageId", str)
Token = NewType("Token", str)

#: Root of every derived UUID, itself UUIDv5 of the DNS name space and "leadline".
NAMESPACE = UUID("b3abe636-4e89-566d-8f49-57b6293d5fdc")

_OF_NAMESPACE = sha1(NAMESPACE.bytes, usedforsecurity=False)
#: The UUID's variant: the two highest bits of its 17th digit are 10.
_VARIANT = {f"{n:x}": f"{n & 3 | 8:x}" for n in range(16)}

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
#: Once `=` is written as a token has it, every `=` is such a token's.
_UNSAFE_STILL = re.compile(r"[^A-Za-z0-9_=-]")
BUSINESS_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class NotATokenError(LeadlineError):
    """Text that is not the canonical token of any id."""


def encode(value: str) -> Token:
    """The token of an id; the id itself where it is safe. Raises UnicodeEncodeError on lone surrogates.

    What WhatsApp's ids hold is replaced first: `str.translate` takes three times as long, and a function for each match
    nearly so.
    """
    value = value.replace("=", "=3D").replace(".", "=2E").replace("/", "=2F").replace("+", "=2B")
    return Token(_UNSAFE_STILL.sub(_escape, value))


def decode(token: str) -> str:
    """The id of a token. Raises `NotATokenError` for text that `encode` would never give."""
    if "=" not in token:
        if _UNSAFE.search(token) or not token:
            raise NotATokenError(f"{token!r} is not a token")
        return token
    if not _TOKEN.fullmatch(token):
        raise NotATokenError(f"{token!r} is not a token")
    head, *rest = token.split("=")
    raw = bytearray(head.encode())
    for part in rest:
        raw.append(int(part[:2], 16))
        raw += part[2:].encode()
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        raise NotATokenError(f"{token!r} does not spell UTF-8") from None
    if encode(value) != token:
        raise NotATokenError(f"{token!r} is not the canonical token of {value!r}")
    return value


def derived_id(key: str) -> str:
    """UUIDv5 of an idempotency key (RFC 9562, 5.5), as text: the same for every replay.

    By hand, since it is made for every task: `uuid.uuid5` takes five times as long.
    """
    hashed = _OF_NAMESPACE.copy()
    hashed.update(key.encode())
    digest = hashed.hexdigest()
    variant = _VARIANT[digest[16]]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def lead_stream(business_id: str, lead_token: str) -> str:
    """Stream id of a lead's events, `lead:<business>:<lead token>`; neither part can hold a colon."""
    return f"lead:{business_id}:{lead_token}"


def lead_of_stream(stream: str) -> tuple[str, str]:
    """(business id, lead id) of a lead's stream id."""
    _, business_id, token = stream.split(":", 2)
    return business_id, decode(token)


def partition_of(business_token: str, lead_token: str, partitions: int = 16) -> int:
    """The partition that the stream's own transform gives a lead: FNV-1a (32 bit) of both tokens, modulo.

    Source: `partition` of NATS's subject mapping.
    """
    value = 0x811C9DC5
    for byte in (business_token + lead_token).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % partitions


def rejects_stream(partition: int) -> str:
    """Stream id of what one partition could not take."""
    return f"rejects:{partition}"


def _escape(match: re.Match[str]) -> str:
    return "".join(f"={byte:02X}" for byte in match.group().encode())
