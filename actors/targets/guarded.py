"""What every target has around it: its secrets stay secret, and are read again where they were refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from actors.targets.secret import Secret, UnreadableSecretError
from domain.events import Idempotency
from domain.outcomes import Done, Misconfigured, NotCalled, Outcome, Unknown
from domain.ports import Target, TargetRequest

_MAX_ERROR = 500


class Ended(Exception):
    """Raised inside a target where its call is over: the outcome that it ends with."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(type(outcome).__name__)
        self.outcome = outcome


class Guarded:
    """A target whose errors never say a secret, and never are exceptions. Any thread."""

    def __init__(self, target: Target, secrets: Sequence[Secret] = ()) -> None:
        self._target = target
        self._secrets = secrets

    @property
    def idempotency(self) -> Idempotency:
        return self._target.idempotency

    def call(self, request: TargetRequest) -> Outcome:
        outcome = self._silenced(self._called(request))
        if isinstance(outcome, Misconfigured):
            for secret in self._secrets:
                secret.forget()
        return outcome

    def _called(self, request: TargetRequest) -> Outcome:
        try:
            return self._target.call(request)
        except Ended as ended:
            return ended.outcome
        except UnreadableSecretError as error:
            return Misconfigured(str(error))
        except Exception as error:  # the target's own code: nobody knows how far it came
            return Unknown(f"the target's code raised {type(error).__name__}: {error}")

    def _silenced(self, outcome: Outcome) -> Outcome:
        """A server may say back what it was sent."""
        if isinstance(outcome, Done | NotCalled) or not hasattr(outcome, "error"):
            return outcome
        error = str(outcome.error)
        for secret in self._secrets:
            for text in secret.texts:
                error = error.replace(text, "***")
        return msgspec.structs.replace(outcome, error=error[:_MAX_ERROR])
