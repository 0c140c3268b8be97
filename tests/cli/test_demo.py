"""The demo tells the whole story, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli_process import leadline, nats_servers_over


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this demo makes its folders, and no other that somebody runs meanwhile."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        done = leadline("demo", cwd=tmp_path_factory.mktemp("demo"), within=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(
    "seen",
    [
        "Tasks",
        "Dead letters",
        "Breakers",
        "Metrics",
        "create_order waits before it is tried again",
        "create_order is undone, its task cancelled",
        "is a dead letter (action_failed)",
        "dead letter retried, run 2, by anna",
        "came again: a duplicate",
        "open after 4 failures",
        "half-open",
        "closed: the probes came back well",
        "outcome_unknown",
        "unknown business 'initech-air'",
        "not UTF-8 at byte 0",
        "subject and body disagree",
        "answered 503",
        "answered 422",
        "In acme-deli's shop",
        "cancelled",
        "placed",
        "webhooks' ledger",
        "taken",
        "refused",
        "mailbox of acme-foods' sales",
        "Contact the lead: ORDER_REQUEST",
    ],
)
def test_the_story_has_everything_in_it(told: str, seen: str) -> None:
    assert seen in told


@pytest.mark.parametrize(
    "intent",
    ["ORDER_REQUEST", "PRICING_INQUIRY", "AVAILABILITY_INQUIRY", "COMPLAINT", "SCHEDULE_CALL", "UNKNOWN"],
)
def test_all_six_intents_are_in_it(told: str, intent: str) -> None:
    assert f"intent={intent}" in told


@pytest.mark.usefixtures("told")
def test_nothing_is_left_running_and_no_folder_stays(temporary: Path) -> None:
    assert nats_servers_over(temporary / "leadline-demo-") == []
    assert list(temporary.iterdir()) == []
