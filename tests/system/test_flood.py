"""A flood of made-up messages, nine of ten bent, through the real intake: one record each, and no memory kept.

CI sends 10,000; `LEADLINE_TEST_FLOOD=100000` more, and only then can a kilobyte a message be told from a batch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from domain.messages import MAX_MESSAGE_BYTES, printable_payload
from tests.support.fuzz_messages import Made, made_up
from tests.support.nats import running_server
from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import query
from tests.support.system_wire import publish_raw

COUNT = int(os.environ.get("LEADLINE_TEST_FLOOD", "10000"))
#: What a rejected message may cost for as long as nobody has settled it, as `tests/domain/test_rejects.py` measures it.
BYTES_A_REJECT = 150
#: What the largest batch of a half may take more than that of the other, and does not give back.
PEAK_MB = 16

#: What the log's entry led to first: exactly one of these stands at its place.
TAKEN = ("message_received.v1", "duplicate_detected.v1")
REFUSED = ("message_rejected.v1", "command_refused.v1")


def recorded(house: Leadline) -> dict[int, list[tuple[str, str | None]]]:
    """Sequence in the stream → stored name and kept payload of each record of it."""
    rows = query(
        house.data / "events.db",
        "SELECT topic, state FROM stored_events WHERE topic IN (?, ?, ?, ?)",
        (*TAKEN, *REFUSED),
    )
    found: dict[int, list[tuple[str, str | None]]] = {}
    for row in rows:
        state = json.loads(row["state"])
        found.setdefault(state["place"][2], []).append((row["topic"], state["event"].get("payload")))
    return found


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_message_of_a_flood_is_recorded_once_as_what_it_is(tmp_path: Path) -> None:
    flood = list(made_up(20261102, COUNT))
    half = COUNT // 2
    with (
        running_server(tmp_path / "nats") as server,
        leadline(tmp_path / "house", url=server.url, settings=TENANTS + SHORT_WAITS) as house,
    ):
        runner = house.run()
        sequences = publish_raw(house.url, [made.entry for made in flood[:half]])
        house.wait_idle(300)
        before = resident_mb(runner.pid)
        sequences += publish_raw(house.url, [made.entry for made in flood[half:]])
        house.wait_idle(600)
        grown = resident_mb(runner.pid) - before
        found = recorded(house)
        assert sorted(found) == sorted(sequences)
        by_sequence = dict(zip(sequences, flood, strict=True))
        verdicts = Counter(_verdict(by_sequence[sequence], records) for sequence, records in found.items())
        assert verdicts["refused"] > COUNT // 2, verdicts
        assert verdicts["taken"] > COUNT // 20, verdicts
        print(f"{COUNT:,} messages: {dict(verdicts)}, {before:.0f} MB and {grown:+.0f} MB")
        assert grown < PEAK_MB + half * BYTES_A_REJECT / 1e6
        verified = house.cli("rebuild", "--verify")
        assert verified.code == 0, verified


def _verdict(made: Made, records: list[tuple[str, str | None]]) -> str:
    """What became of it. AssertionError where that is not what the contract says."""
    [(name, payload)] = records
    taken = name in TAKEN
    assert made.valid is None or taken is made.valid, (made, name)
    if payload is not None:
        assert payload == printable_payload(made.entry.body[:MAX_MESSAGE_BYTES])
    return "taken" if taken else "refused"
