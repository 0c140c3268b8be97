"""How a call to a target can end. Nothing else may come back from a port."""

from __future__ import annotations

from msgspec import Struct

from domain.events import DeferReason


class Done(Struct, frozen=True, gc=False):
    """It happened; `remote` holds the ids that the target's system gave."""

    remote: dict[str, str] = {}


class Failed(Struct, frozen=True, gc=False):
    """Proved not to have happened. Worth another try, after `retry_after_us` if the target said so."""

    error: str
    retry_after_us: int | None = None
    #: A 429 is not the target's failure: the breaker does not count it, and all its calls wait that long.
    throttled: bool = False


class FailedForGood(Struct, frozen=True, gc=False):
    """Proved not to have happened, and never will: another try is pointless."""

    error: str


class Misconfigured(Struct, frozen=True, gc=False):
    """Proved not to have happened, because of the configuration: 401, 403, a secret that cannot be read, a
    login that is refused. The call waits until that is mended; it loses no attempt."""

    error: str
    #: The target is gone and says so (410): it is not probed until the next start.
    switched_off: bool = False


class Unknown(Struct, frozen=True, gc=False):
    """It may have happened: the answer was lost."""

    error: str


class NotCalled(Struct, frozen=True, gc=False):
    """No attempt was made: the breaker is open, the target takes no more calls now, or the settings name no
    such target. Ask again after `retry_in_us`."""

    retry_in_us: int
    reason: DeferReason = "breaker"


Outcome = Done | Failed | FailedForGood | Misconfigured | Unknown | NotCalled
