"""`/metrics`: what Prometheus reads is what the view says, restarts and replays included."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from domain import events as ev
from domain.errors import LeadlineError
from projections.collector import serve
from projections.rebuild import rebuild
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import LeadStory, Story


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


@pytest.fixture
def story() -> Story:
    story = Story()
    lead = LeadStory(story)
    lead.whole("m1")
    lead.add(lead.received("m2"), ev.DuplicateDetected("m1"))
    story.add("breaker:orders", ev.BreakerOpened("orders", 10, 7, story.now, 1, "refused"))
    return story


def test_counters_histograms_and_gauges_are_served_with_their_units(story: Story, tmp_path: Path) -> None:
    rebuild(MemoryLog(story.recorded), tmp_path / "views.db")
    server = serve(tmp_path / "views.db", 0, lambda: {"living_leads": 3.0}, lambda: 10)
    try:
        found = scrape(server.url)
    finally:
        server.stop()
    assert found['whatsapp_messages_received_total{business="acme"}'] == 2
    assert found["message_duplicate_total"] == 1
    assert found['whatsapp_action_executed_total{action="notify_sales",outcome="done"}'] == 1
    assert found["ai_intent_confidence_sum"] == 0.91
    assert found['ai_processing_seconds_bucket{le="0.1"}'] == 0
    assert found['ai_processing_seconds_bucket{le="0.25"}'] == 2
    assert found["ai_processing_seconds_count"] == 2
    assert found["message_processing_seconds_sum"] == 2.0
    assert found['circuit_breaker_state{breaker="orders"}'] == 2
    assert found["leadline_living_leads"] == 3
    assert found["leadline_projection_lag_events"] == 2
    assert found["leadline_projection_lag_seconds"] > 0
    assert found["leadline_projection_stopped"] == 0


def test_a_replay_counts_nothing_twice(story: Story, tmp_path: Path) -> None:
    log = MemoryLog(story.recorded)
    rebuild(log, tmp_path / "views.db")
    server = serve(tmp_path / "views.db", 0)
    try:
        before = scrape(server.url)
        rebuild(log, tmp_path / "views.db", batch=1)
        assert scrape(server.url) == before
    finally:
        server.stop()


def test_without_views_a_scrape_answers_with_zeros(tmp_path: Path) -> None:
    server = serve(tmp_path / "views.db", 0)
    try:
        assert scrape(server.url)["message_duplicate_total"] == 0
    finally:
        server.stop()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    server = serve(tmp_path / "views.db", 0)
    try:
        port = int(server.url.split(":")[2].split("/")[0])
        with pytest.raises(LeadlineError, match=f"metrics cannot be served on 127.0.0.1:{port}"):
            serve(tmp_path / "views.db", port)
    finally:
        server.stop()
