"""What must hold, whatever happened. Each is a function of the evidence that gives its violations as sentences.

`ALWAYS` holds at every moment, also where a runner has just been killed; `AT_REST` once nothing is left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.verify.evidence import Evidence
from tests.verify.invariants import effects, log, outbox, parking, sagas, views

Invariant = Callable[[Evidence], Iterable[str]]

ALWAYS: tuple[Invariant, ...] = (
    *log.ALWAYS,
    *sagas.ALWAYS,
    *parking.ALWAYS,
    *effects.ALWAYS,
    *outbox.ALWAYS,
)
AT_REST: tuple[Invariant, ...] = (
    *log.AT_REST,
    *sagas.AT_REST,
    *effects.AT_REST,
    *outbox.AT_REST,
    *views.AT_REST,
)

#: Violations of one invariant that are told; a broken promise is mostly broken often.
TOLD = 5


def name_of(invariant: Invariant) -> str:
    return invariant.__name__.replace("_", " ")


def violations(evidence: Evidence, invariants: Iterable[Invariant]) -> Iterator[str]:
    """A sentence for each violation, with the invariant's name in front."""
    for invariant in invariants:
        found = list(invariant(evidence))
        for sentence in found[:TOLD]:
            yield f"{name_of(invariant)}: {sentence}"
        if len(found) > TOLD:
            yield f"{name_of(invariant)}: … and {len(found) - TOLD} more"
