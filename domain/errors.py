"""What can be wrong with input, as exceptions that carry a sentence for a person."""

from __future__ import annotations


class LeadlineError(Exception):
    """Base of every error that Leadline raises on purpose; `str()` is a sentence for a person."""


class Rejected(LeadlineError):
    """A message or command that cannot be taken; the text says why and becomes `MessageRejected`.

    The ids are what could be read of the body before it was refused, None where nothing could.
    """

    def __init__(
        self,
        reason: str,
        *,
        message_id: str | None = None,
        tenant_id: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message_id = message_id
        self.tenant_id = tenant_id


class UnknownEventError(LeadlineError):
    """A stored event that no version of this program can read; names topic, stream and version."""


class StoreUnreadableError(LeadlineError, OSError):
    """The event store cannot be read just now: busy, out of reach, or its disk fails. No event's fault."""


class SettingsError(LeadlineError):
    """A setting that cannot be used; the text begins with its key."""
