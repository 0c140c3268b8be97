"""The main path on real input: every message once, its tasks as the design's tables say, in order, replayable."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

import pytest

from tests.support.nats import running_server
from tests.support.system_leadline import Leadline, leadline
from tests.support.system_oracle import CORPUS, NO_REPLIES, corpus_lines, differences, expected, first_of_each
from tests.support.system_sql import by_stream, events, execute, metric, timeless, view, views
from tests.support.system_wire import publish_raw, to_own_subject

pytestmark = [
    pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus at {CORPUS}"),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Leadline, list[bytes]]]:
    """The corpus published in one go by `publish`, and handled; the runner lives."""
    folder = tmp_path_factory.mktemp("corpus")
    settings = (CORPUS / "leadline.toml").read_text() + NO_REPLIES
    with (
        running_server(folder / "nats", quick=False) as server,
        leadline(folder / "house", url=server.url, settings=settings) as house,
    ):
        house.run()
        lines = corpus_lines()
        report = house.cli("publish", "-", "--json", stdin=b"\n".join(lines)).json
        assert report["confirmed"] + report["duplicates"] == len(lines) == 7205
        assert house.cli("status", "--wait-idle").code == 0
        yield house, lines


def test_every_message_has_one_row_and_one_disposition(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, lines = corpus
    rows = view(house.data, "processed_messages")
    keys = [(row["business_id"], row["lead_id"], row["message_id"]) for row in rows]
    assert len(keys) == len(set(keys)) == 6896
    assert set(keys) == first_of_each(lines).keys()
    assert {(row["disposition"], row["processing_status"]) for row in rows} == {("completed", "success")}
    assert view(house.data, "unfinished") == view(house.data, "dead_letter_queue") == []


def test_tasks_are_exactly_what_the_tables_say(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, lines = corpus
    wrong = list(differences(lines, view(house.data, "tasks")))
    assert not wrong, (len(wrong), wrong[:3])


def test_the_leads_and_metrics_add_up(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, lines = corpus
    messages = first_of_each(lines)
    leads = {(row["business_id"], row["lead_id"]): row for row in view(house.data, "leads")}
    assert {lead: row["messages"] for lead, row in leads.items()} == Counter(key[:2] for key in messages)
    tasks = Counter((row["business_id"], row["lead_id"]) for row in view(house.data, "tasks"))
    assert {lead: row["open_tasks"] for lead, row in leads.items() if row["open_tasks"]} == tasks
    for business, count in Counter(key[0] for key in messages).items():
        assert metric(house.data, "whatsapp_messages_received_total", business=business) == count
    for intent, count in Counter(message["intent"] for message in messages.values()).items():
        assert metric(house.data, "ai_intent_detected_total", intent=intent) == count
    made = Counter(task.task_type for message in messages.values() for task in expected(message).tasks)
    assert (
        metric(house.data, "whatsapp_action_executed_total", action="create_order", outcome="done")
        == (made["order_processing"])
    )


def test_a_second_go_has_no_second_effect(corpus: tuple[Leadline, list[bytes]]) -> None:
    """Without ids for JetStream to find duplicates by: days later, its window knows nothing of them either."""
    house, lines = corpus
    before = timeless(house.data)
    counted = metric(house.data, "message_duplicate_total")
    publish_raw(house.url, [to_own_subject(line) for line in lines])
    house.wait_idle()
    after = timeless(house.data)
    assert metric(house.data, "message_duplicate_total") == counted + len(lines)
    assert {name for name, rows in after.items() if rows != before[name]} <= {"metrics"}
    moved = [row for row in after["metrics"] if row not in before["metrics"]]
    assert {row["name"] for row in moved} == {"message_duplicate_total"}


def test_each_leads_messages_take_effect_in_the_order_published(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, lines = corpus
    published = defaultdict(list)
    for business, lead, message_id in first_of_each(lines):
        published[business, lead].append(message_id)
    for name in ("message_received.v1", "intent_detected.v1", "message_completed.v1"):
        found = by_stream(events(house.data, name, "lead:%"), "message_id")
        assert sorted(map(tuple, found.values())) == sorted(map(tuple, published.values())), name


def test_views_that_are_gone_are_the_same_again_row_by_row(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, _ = corpus
    before = views(house.data)
    for file in house.data.glob("views.db*"):
        file.unlink()
    house.wait_idle()
    assert views(house.data) == before


def test_verify_finds_nothing_beside_a_live_runner_and_then_what_was_falsified(
    corpus: tuple[Leadline, list[bytes]],
) -> None:
    house, _ = corpus
    assert house.cli("rebuild", "--verify").code == 0
    before = views(house.data)
    falsified = before["tasks"][17]["task_id"]
    execute(house.data / "views.db", "UPDATE tasks SET priority = 'critical' WHERE task_id = ?", [falsified])
    found = house.cli("rebuild", "--verify", "--json")
    assert found.code == 1
    assert falsified in found.out
    assert "Traceback" not in found.err
    assert house.cli("rebuild").code == 0
    assert views(house.data) == before


def test_questions_answer_with_what_the_views_hold(corpus: tuple[Leadline, list[bytes]]) -> None:
    house, _ = corpus
    tasks = view(house.data, "tasks")
    orders = [row for row in tasks if row["task_type"] == "order_processing"]
    asked = house.cli("tasks", "--json", "--type", "order_processing").json
    assert {row["task_id"] for row in asked} == {row["task_id"] for row in orders}
    assert asked[0]["metadata"]["intent"] == "ORDER_REQUEST"
    assert len(house.ask("leads")) == len(view(house.data, "leads"))
    some = tasks[0]
    story = house.cli("lead", "show", some["business_id"], some["lead_id"], "--json").json
    assert some["message_id"] in json.dumps(story)
