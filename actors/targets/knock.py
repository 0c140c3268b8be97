"""Whether a target's host can be reached: its name, a connection, its certificate. Nothing is asked of it."""

from __future__ import annotations

import smtplib
import socket
import ssl
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from actors.targets.http import connect, http_tls_context, tls_context


class Door(Struct, frozen=True):
    """Where a target is called. `tls` as mail has it; starttls says so much SMTP as that takes, and no more."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    #: Of the authorities that are trusted; None for the usual ones.
    ca_file: str | None = None


class Knock(Struct, frozen=True):
    """What came of it: `trouble` is empty where the door opened."""

    trouble: str = ""
    #: When its certificate ends.
    ends: datetime | None = None


def knock(door: Door, seconds: float = 3.0) -> Knock:
    """Connects and hangs up, within `seconds` for each step. Looking the name up has the resolver's own time."""
    try:
        return Knock(ends=_starttls(door, seconds) if door.tls == "starttls" else _connected(door, seconds))
    except (socket.gaierror, UnicodeError):
        return Knock(f"the name {door.host} cannot be resolved")
    except ssl.SSLCertVerificationError as error:
        return Knock(f"its certificate is not trusted: {error.verify_message}")
    except ssl.SSLError as error:
        return Knock(f"no TLS: {error.reason or error}")
    except TimeoutError:
        return Knock(f"no answer within {seconds:g} s")
    except smtplib.SMTPNotSupportedError:
        return Knock("the server offers no STARTTLS")
    except (OSError, smtplib.SMTPException) as error:
        return Knock(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _connected(door: Door, seconds: float) -> datetime | None:
    with connect(door.host, door.port, seconds) as wire:
        if door.tls == "none":
            return None
        wire.settimeout(seconds)
        with http_tls_context(door.ca_file).wrap_socket(wire, server_hostname=door.host) as secured:
            return _end_of(secured)


def _starttls(door: Door, seconds: float) -> datetime | None:
    with smtplib.SMTP(door.host, door.port, timeout=seconds) as smtp:
        smtp.starttls(context=tls_context(door.ca_file))
        assert isinstance(smtp.sock, ssl.SSLSocket)  # what STARTTLS has made of it
        return _end_of(smtp.sock)


def _end_of(secured: ssl.SSLSocket) -> datetime | None:
    ends = (secured.getpeercert() or {}).get("notAfter")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) if isinstance(ends, str) else None
