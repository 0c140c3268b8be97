"""email: SMTP (RFC 5321), one connection a mail. Mail servers dedup nothing: *once*.

The `Message-ID` follows from the idempotency key; a compensation is a reply to the mail that it corrects.
Nothing of a mail is sent before the server has said 354, so that whatever ends a call before is a failure.
"""

from __future__ import annotations

import html
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Literal

from msgspec import Struct

from actors.targets.guarded import Ended
from actors.targets.http import connect
from actors.targets.secret import Secret
from actors.targets.templates import Template, Values, action_id, one_line, values_of, written
from domain.events import Idempotency
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, Outcome, Unknown
from domain.ports import TargetRequest

_MAX_SUBJECT = 200


class SmtpServer(Struct, frozen=True):
    """Where mail is handed in. `timeout` bounds a whole call, in seconds."""

    host: str
    port: int
    tls: Literal["starttls", "tls", "none"]
    context: ssl.SSLContext
    timeout: float
    connect_timeout: float
    login: tuple[str, Secret] | None = None


class Letter(Struct, frozen=True):
    """One kind of mail. In `html` every value is escaped."""

    subject: Template
    text: Template
    html: Template | None


class Letters(Struct, frozen=True):
    """From whom and to whom, and both kinds of mail."""

    sender: str
    to: tuple[str, ...]
    first: Letter
    correction: Letter


class EmailTarget:
    idempotency: Idempotency = "once"

    def __init__(self, server: SmtpServer, letters: Letters) -> None:
        self._server = server
        self._letters = letters

    def call(self, request: TargetRequest) -> Outcome:
        letters = self._letters
        message_id = f"<{action_id(request)}@{letters.sender.rpartition('@')[2]}>"
        mail = EmailMessage(policy.SMTP)
        mail["From"] = letters.sender
        mail["To"] = ", ".join(letters.to)
        mail["Date"] = format_datetime(datetime.now(UTC))
        if request.undo:
            mail["Message-ID"] = message_id.replace("@", ".undo@", 1)
            mail["In-Reply-To"] = mail["References"] = message_id
        else:
            mail["Message-ID"] = message_id
        with written("a mail"):
            _write(mail, letters.correction if request.undo else letters.first, values_of(request))
            letter = mail.as_bytes()
        _deliver(self._server, letters, letter)
        return Done({"message_id": str(mail["Message-ID"])})


def _write(mail: EmailMessage, letter: Letter, values: Values) -> None:
    mail["Subject"] = letter.subject.fill(values, one_line)[:_MAX_SUBJECT]
    mail.set_content(letter.text.fill(values), cte="base64")
    if letter.html is not None:
        mail.add_alternative(letter.html.fill(values, html.escape), subtype="html", cte="base64")


class _Smtp(smtplib.SMTP):
    """One conversation, which ends with its time: then its socket is shut, whoever reads from it."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self.is_over = False
        super().__init__(local_hostname=socket.gethostname(), timeout=server.timeout)
        self._host = server.host  # for the certificate's check in STARTTLS

    def end(self) -> None:
        self.is_over = True
        if self.sock is not None:
            with suppress(OSError):  # it has ended already
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        server = self._server
        wire = connect(host, port, min(server.connect_timeout, server.timeout))
        wire.settimeout(server.timeout)
        if server.tls != "tls":
            return wire
        try:
            return server.context.wrap_socket(wire, server_hostname=host)
        except BaseException:
            wire.close()
            raise


@contextmanager
def _conversation(server: SmtpServer) -> Iterator[_Smtp]:
    smtp = _Smtp(server)
    timer = threading.Timer(server.timeout, smtp.end)
    timer.daemon = True
    timer.start()
    try:
        yield smtp
    finally:
        timer.cancel()
        smtp.close()


def _deliver(server: SmtpServer, letters: Letters, mail: bytes) -> None:
    """Raises `Ended` for everything but a mail that the server has taken."""
    with _conversation(server) as smtp:
        with _breaking_off(smtp, lambda what: Failed(f"{what}; nothing was sent")):
            _expect(smtp.connect(server.host, server.port), 220)
            _introduce(smtp, server)
            _expect(smtp.mail(letters.sender), 250, FailedForGood)
            for address in letters.to:
                _expect(smtp.rcpt(address), 250, FailedForGood)
            _expect(smtp.docmd("DATA"), 354, FailedForGood)
        with _breaking_off(smtp, lambda what: Unknown(f"{what}; the mail was sent")):
            smtp.send(mail + b".\r\n")  # no line begins with a dot: headers do not, base64 has none
            code, said = smtp.getreply()
            if code not in (
                250,
                251,
            ):  # what is refused is this mail, whatever the code says: nothing parks for it
                what = f"the server answered {_text(code, said)}"
                lost = code < 500 or smtp.is_over
                raise Ended(Unknown(f"{what}; the mail was sent") if lost else FailedForGood(what))
            smtp.putcmd("QUIT")  # its answer changes nothing


def _introduce(smtp: _Smtp, server: SmtpServer) -> None:
    smtp.ehlo_or_helo_if_needed()
    if server.tls == "starttls":
        if not smtp.has_extn("starttls"):
            raise Ended(Misconfigured("the server offers no STARTTLS"))
        _expect(smtp.starttls(context=server.context), 220)
        smtp.ehlo_or_helo_if_needed()
    if server.login is not None:
        _log_in(smtp, *server.login)


def _log_in(smtp: _Smtp, user: str, password: Secret) -> None:
    try:
        smtp.login(user, password.text())
    except smtplib.SMTPAuthenticationError as error:
        _expect((error.smtp_code, error.smtp_error), 235, Misconfigured)
    except UnicodeEncodeError:
        raise Ended(
            Misconfigured("user or password is not ASCII, and the login takes nothing else")
        ) from None
    except smtplib.SMTPException as error:
        if isinstance(error, smtplib.SMTPServerDisconnected | smtplib.SMTPResponseException):
            raise
        raise Ended(Misconfigured(f"no login: {error}")) from None


def _expect(
    reply: tuple[int, bytes | str], code: int, refused: Callable[[str], Outcome] = Misconfigured
) -> None:
    """4xx is a failure, 5xx what `refused` makes of it; 530 and its like ask for another login."""
    came, said = reply
    if came == code or (code == 250 and came == 251):
        return
    what = f"the server answered {_text(came, said)}"
    if came in (530, 534, 535, 538):
        raise Ended(Misconfigured(what))
    raise Ended(refused(what) if came >= 500 else Failed(what))


def _text(code: int, said: bytes | str) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return f"{code} {one_line(text)}".strip()


@contextmanager
def _breaking_off(smtp: _Smtp, outcome: Callable[[str], Outcome]) -> Iterator[None]:
    """What breaks the conversation, as the outcome that it means at this place."""
    try:
        yield
    except smtplib.SMTPResponseException as error:
        raise Ended(outcome(f"the server answered {_text(error.smtp_code, error.smtp_error)}")) from None
    except (OSError, smtplib.SMTPException) as error:
        in_time = not (smtp.is_over or isinstance(error, TimeoutError))
        what = (str(error) or type(error).__name__) if in_time else "no answer in time"
        raise Ended(outcome(what)) from None
