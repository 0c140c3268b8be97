"""Where the outbox runs: beside the projector, in the same form, so that it takes nothing from the actors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from domain.ports import EventLog
from outbox.position import forget, read_position, settle
from outbox.run import OutboxParts, run_outbox
from projections.host import Host, ProcessHost, SetUp, ThreadHost

log = structlog.get_logger(__name__)


def start_outbox(
    parts: OutboxParts,
    events: EventLog,
    mode: Literal["process", "thread"],
    *,
    set_up: SetUp,
    on_death: Callable[[BaseException], None],
) -> Host | None:
    """The outbox at work; None where nothing goes out. Before the first message is taken: `events` say where it begins,
    and from there on nothing is left out."""
    if not (parts.relay.results or parts.relay.replies):
        forget(parts.position)
        return None
    settle(parts.position, events, log.warning)
    body = partial(run_outbox, parts)
    if mode == "process":
        return ProcessHost("outbox", body, set_up)
    return ThreadHost("outbox", body, on_death)


def gauges(position: Path, last_position: Callable[[], int]) -> dict[str, float]:
    """How far it is behind, for the process's own figures; nothing where there is no outbox."""
    standing = read_position(position)
    if standing is None:
        return {}
    return {
        "outbox_lag_events": max(0, last_position() - standing.position),
        "outbox_stopped": float(standing.stopped is not None),
    }
