"""Kills: runner and NATS at random moments of the work, and a call whose process dies beneath it."""

from __future__ import annotations

import os
import secrets
import sqlite3
import sys
from pathlib import Path

import pytest

from domain.tokens import encode
from tests.support.eventually import eventually
from tests.support.nats import running_server
from tests.support.system_kills import Killer, plan_kills
from tests.support.system_leadline import PATIENCE, TENANTS, Leadline, leadline
from tests.support.system_oracle import CORPUS, NO_REPLIES, corpus_lines, differences
from tests.support.system_sql import Row, count_events, events, timeless, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message

#: Messages of the corpus that are used: 0 is all of them. Seed 0 takes a new one each time.
MESSAGES = int(os.environ.get("LEADLINE_TEST_KILL_MESSAGES", "2000"))
SEED = int(os.environ.get("LEADLINE_TEST_KILL_SEED", "0")) or secrets.randbelow(1_000_000)
KILLS = 10

#: A target that takes its time, so that kills fall upon calls in flight; small commits, so that they fall between.
SETTINGS = (
    target("notify_sales", delay_ms=3, workers=8, ledger=LEDGER)
    + """
[journal]
max_appends = 50
[intake]
checkpoint_seconds = 0.2
"""
)

needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}")


@needs_corpus
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_of_runner_and_nats_leave_the_views_of_an_undisturbed_run(tmp_path: Path) -> None:
    lines = corpus_lines()[: MESSAGES or None]
    settings = (CORPUS / "leadline.toml").read_text() + NO_REPLIES + SETTINGS
    with (
        running_server(tmp_path / "calm-nats") as server,
        leadline(tmp_path / "calm", url=server.url, settings=settings) as calm,
    ):
        calm.run()
        calm.publish(lines)
        calm.wait_idle()
        undisturbed, recorded = timeless(calm.data), count_events(calm.data)
    kills = plan_kills(SEED, KILLS, recorded)
    say(f"seed {SEED}: {len(lines)} messages, {recorded} events, {kills}")
    with (
        running_server(tmp_path / "nats", quick=False) as server,
        leadline(tmp_path / "house", url=server.url, settings=settings) as house,
    ):
        (house.folder / "corpus.jsonl").write_bytes(b"\n".join(lines))
        killer = Killer(house, server, house.run)
        publishing = house.begin("publish", "corpus.jsonl")
        killer.carry_out(kills)
        say(f"fell at events {killer.fell_at}")
        assert publishing.ended() == 0, publishing.err
        house.wait_idle(300)
        assert not list(differences(lines, view(house.data, "tasks")))
        assert_same(timeless(house.data), undisturbed)
        keys = [event["key"] for event in events(house.data, "action_executed.v1")]
        assert len(keys) == len(set(keys)) == len(view(house.data, "tasks"))
        called = {call["key"] for call in ledger(house)}
        assert called == {key for key in keys if key.endswith(".notify_sales")}
        assert house.cli("rebuild", "--verify").code == 0
        assert killer.running.terminate() == 0


@pytest.mark.parametrize("idempotency", ["keyed", "none"])
def test_a_call_that_its_process_died_beneath_is_called_again_with_the_same_key(
    house: Leadline, idempotency: str
) -> None:
    house.set(TENANTS + hanging(idempotency))
    kill_in_call(house)
    house.set(TENANTS + answering(idempotency))
    house.run()
    house.wait_idle()
    assert [(call["key"], call["attempt"]) for call in ledger(house)] == [(KEY, 2)]
    assert len(events(house.data, "action_interrupted.v1")) == 1
    assert [row["disposition"] for row in view(house.data, "processed_messages")] == ["completed"]
    assert len(view(house.data, "tasks")) == 1


@pytest.mark.parametrize(
    ("settled", "disposition", "tasks"), [("done", "completed", 1), ("undone", "dead_lettered", 0)]
)
def test_a_call_to_a_once_target_that_its_process_died_beneath_is_for_a_person_to_settle(
    house: Leadline, settled: str, disposition: str, tasks: int
) -> None:
    house.set(TENANTS + hanging("once"))
    kill_in_call(house)
    house.set(TENANTS + answering("once"))
    house.run()
    house.wait_idle()
    [row] = view(house.data, "dead_letter_queue")
    assert (row["category"], row["status"]) == ("outcome_unknown", "failed")
    assert not ledger(house)
    assert house.cli("dlq", "retry", row["id"]).code == 1
    assert house.cli("dlq", "resolve", row["id"]).code == 1
    answer = house.cli("dlq", "resolve", row["id"], "--as", settled, "--why", "asked them")
    assert answer.code == 0, answer
    house.wait_idle()
    assert not ledger(house)
    assert [row["disposition"] for row in view(house.data, "processed_messages")] == [disposition]
    assert len(view(house.data, "tasks")) == tasks
    assert [row["status"] for row in view(house.data, "dead_letter_queue")] == ["resolved"]


def say(text: str) -> None:
    """What pytest shows beside a failure, and with `-s`."""
    sys.stdout.write(f"\n{text}\n")


KEY = f"acme-foods/{encode('+49 151/1')}/m-1/0.notify_sales"


def hanging(idempotency: str) -> str:
    """A target that takes a call and never comes back; it writes nothing into its ledger."""
    return target("notify_sales", "hang", idempotency=idempotency, timeout_seconds=600)


def answering(idempotency: str) -> str:
    return target("notify_sales", idempotency=idempotency, ledger=LEDGER)


def kill_in_call(house: Leadline) -> None:
    """A message whose only action is called, and the runner killed during the call."""
    runner = house.run()
    house.publish([message("m-1")])

    def is_called() -> bool:
        try:
            return bool(events(house.data, "action_started.v1"))
        except sqlite3.OperationalError:
            return False

    eventually(is_called, within=PATIENCE)
    runner.kill()


def assert_same(found: dict[str, list[Row]], wanted: dict[str, list[Row]]) -> None:
    """Row by row, and the first that differs is said."""
    for name, rows in wanted.items():
        assert len(found[name]) == len(rows), name
        differing = [(one, other) for one, other in zip(found[name], rows, strict=True) if one != other]
        assert not differing, (name, len(differing), differing[:2])
