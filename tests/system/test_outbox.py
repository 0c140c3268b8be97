"""Results, replies and the service as those outside have them: real processes, a real server, kills."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from actors import jetstream
from domain.tokens import encode
from tests.support.eventually import eventually
from tests.support.log import with_client
from tests.support.nats import TestServer, running_server
from tests.support.outbox import Out, out
from tests.support.system_leadline import ROOT, SHORT_WAITS, TENANTS, Leadline, Running, leadline
from tests.support.system_sql import events, view
from tests.support.system_targets import target
from tests.support.system_wire import Entry, message, order, publish_raw, to_own_subject

LEAD = "+49 151/1"


def by_message(found: list[Out]) -> dict[str, list[Out]]:
    sorted_out: dict[str, list[Out]] = {}
    for one in found:
        sorted_out.setdefault(one.message_id, []).append(one)
    return sorted_out


def test_every_way_a_message_can_end_is_told_to_whoever_follows_the_results(house: Leadline) -> None:
    failing = target("create_order", "fail_for_good", "done") + target("create_support_ticket", "raise")
    house.set(TENANTS + SHORT_WAITS + failing)
    house.run()
    house.publish([message("done"), order("failed"), message("again")])
    publish_raw(house.url, [to_own_subject(message("again")), reject("bad")])
    house.wait_idle()
    [letter] = [row for row in view(house.data, "dead_letter_queue") if row["message_id"] == "failed"]
    assert house.cli("dlq", "retry", letter["id"]).code == 0
    house.wait_idle()
    results = by_message(out(house.url, "results"))
    told = {name: [one.body["disposition"] for one in those] for name, those in results.items()}
    told["again"].sort()  # a repeat is recognised at once, also while its message waits for its turn
    assert told == {
        "done": ["completed"],
        "failed": ["dead_lettered", "completed"],
        "again": ["completed", "duplicate"],
        "bad": ["rejected"],
    }
    dead, retried = (one.body for one in results["failed"])
    assert (dead["failed_actions"], dead["category"]) == (["create_order"], "action_failed")
    assert dead["dead_letter_id"] == retried["dead_letter_id"] == letter["id"]
    assert retried["executed_actions"] == ["create_order", "notify_sales"]
    assert Counter(one.message_id for one in out(house.url, "replies")) == {
        "done": 1,
        "again": 1,
        "failed": 1,
    }


def reject(message_id: str) -> Entry:
    body = json.loads(message(message_id)) | {"confidence": 2}
    return Entry(f"leads.in.acme-foods.{encode(LEAD)}", json.dumps(body).encode())


def test_a_reply_too_late_is_a_task_in_the_leads_own_history(house: Leadline) -> None:
    """The window is open when the message comes, and over when its slow target has answered."""
    house.set(TENANTS + target("notify_sales", delay_ms=4000))
    house.run()
    written = datetime.now(UTC) - timedelta(hours=24) + timedelta(seconds=3)
    house.publish([message("old", received_at=written.isoformat(), text="Rye?"), message("new", "+2")])
    house.wait_idle()
    assert [one.message_id for one in out(house.url, "replies")] == ["new"]
    [event] = events(house.data, "reply_expired.v1")
    assert datetime.fromisoformat(event["window_ended_at"]) == written + timedelta(hours=24)
    tasks = [row for row in view(house.data, "tasks") if row["lead_id"] == LEAD]
    assert [row["task_type"] for row in tasks] == ["sales_notification"] * 2
    [late] = [row for row in tasks if row["task_id"] == event["task"]["task_id"]]
    assert (late["description"], late["status"], late["message_id"]) == ("Rye?", "pending", "old")
    assert "too late to answer old" in house.cli("lead", "acme-foods", LEAD).out
    assert house.cli("task", "complete", late["task_id"]).code == 0
    assert house.cli("rebuild", "--verify").code == 0


def test_what_was_too_old_for_a_reply_when_it_came_has_neither_reply_nor_task(house: Leadline) -> None:
    """An old backlog, published now: its own actions are all that anybody waits for."""
    house.run()
    written = datetime.now(UTC) - timedelta(hours=25)
    house.publish([message("old", received_at=written.isoformat())])
    house.wait_idle()
    assert out(house.url, "replies") == []
    [result] = out(house.url, "results")
    assert result.body["response"]
    assert [row["message_id"] for row in view(house.data, "tasks")] == ["old"]
    assert events(house.data, "reply_expired.v1") == []


def test_through_kills_of_runner_and_nats_every_result_is_out_in_order_and_every_reply_once(
    house: Leadline, server: TestServer
) -> None:
    count, leads = 500, 3
    lines = [message(f"m{n}", f"+{n % leads}") for n in range(count)]
    running = house.run()
    forget_at_once(house.url)
    for number, start in enumerate(range(0, count, 100)):
        kill_amid_replies(house, running, lines[start : start + 100])
        if number % 2:
            server.restart(kill=True)
        running = house.run()
    house.wait_idle()
    results, replies = out(house.url, "results"), out(house.url, "replies")
    assert Counter(one.message_id for one in replies) == {f"m{n}": 1 for n in range(count)}
    assert {one.message_id for one in results} == {f"m{n}" for n in range(count)}
    assert len({one.headers["Nats-Msg-Id"] for one in results}) == count
    for lead in range(leads):
        wanted = [f"m{n}" for n in range(lead, count, leads)]
        assert firsts(results, f"=2B{lead}") == wanted
        assert firsts(replies, f"=2B{lead}") == wanted


def kill_amid_replies(house: Leadline, running: Running, lines: list[bytes]) -> None:
    """The runner dies when some replies of these messages are on their way, and before its position says so: it moves
    when all of them are confirmed."""

    async def kill(client: Client) -> None:
        replies = await client.subscribe("leads.out.*.*.replies")
        await client.flush()
        await asyncio.to_thread(house.publish, lines)
        for _ in range(5):
            await replies.next_msg(60)
        await asyncio.to_thread(running.kill)

    with_client(house.url, kill)


def firsts(found: list[Out], lead: str) -> list[str]:
    """Ids of a lead's messages, in the order in which they came first."""
    return list(dict.fromkeys(one.message_id for one in found if one.subject.split(".")[3] == lead))


def forget_at_once(url: str) -> None:
    """LEADS_OUT with a window so short that JetStream recognises no repeat: what is once then is so by itself."""

    async def change(client: Client) -> None:
        info = await jetstream.call(client, "STREAM.INFO.LEADS_OUT")
        shorter = info["config"] | {"duplicate_window": 100_000_000}
        await jetstream.call(client, "STREAM.UPDATE.LEADS_OUT", shorter)

    with_client(url, change)


def test_an_upgrade_publishes_nothing_of_what_was_handled_before(house: Leadline) -> None:
    house.set(TENANTS + "[outbox]\nresults = false\nreplies = false\nservice = false\n")
    running = house.run()
    house.publish([message("before")])
    house.wait_idle()
    assert running.terminate() == 0
    assert out(house.url) == []
    house.set(TENANTS)
    running = house.run()
    house.publish([message("after")])
    house.wait_idle()
    assert {one.message_id for one in out(house.url)} == {"after"}
    assert "results and replies begin after event" in running.err


def test_views_built_again_publish_nothing_again(house: Leadline) -> None:
    running = house.run()
    house.publish([message("m1")])
    house.wait_idle()
    assert running.terminate() == 0
    for file in house.data.glob("views.db*"):
        file.unlink()
    house.run()
    house.wait_idle()
    assert len(out(house.url)) == 2


def test_a_data_folder_that_is_new_on_a_stream_that_has_results_says_so(house: Leadline) -> None:
    until_idle = ("run", "--until-idle", "--http-port", "0")
    house.publish([message("m1")])
    first = house.cli(*until_idle)  # results are what says it: messages that nobody has handled are no reason
    again = house.cli(*until_idle)
    with leadline(house.folder, url=house.url, data="other") as other:
        second = other.cli(*until_idle)
    assert (first.code, again.code, second.code) == (0, 0, 0)
    told = "results are in LEADS_OUT already: if another folder handles this stream, stop here"
    assert [told in answer.err for answer in (first, again, second)] == [False, False, True]


def test_status_and_doctor_see_the_outbox(house: Leadline) -> None:
    running = house.run()
    house.publish([message("m1")])
    house.wait_idle()
    seen = house.ask("status")
    assert seen["outbox"] == {"position": seen["events"], "lag": 0, "stopped": None}
    assert "all is out" in house.cli("status").out
    assert "LEADS_OUT is as results and replies need it" in house.cli("doctor").out
    assert running.terminate() == 0
    with_client(house.url, lambda client: jetstream.call(client, "STREAM.DELETE.LEADS_OUT"))
    assert "LEADS_OUT is not there yet" in house.cli("doctor").out


def test_a_stream_of_that_name_that_drops_nothing_old_is_refused_at_the_start(house: Leadline) -> None:
    config = {"name": "LEADS_OUT", "subjects": ["leads.out.>"], "storage": "file"}
    with_client(house.url, lambda client: jetstream.call(client, "STREAM.CREATE.LEADS_OUT", config))
    refused = house.cli("run", "--http-port", "0")
    assert refused.code == 1
    assert "stream LEADS_OUT is not as Leadline needs it: subjects is" in refused.err


# asking and waiting


def asked(url: str, body: bytes, **headers: str) -> Msg:
    """The service's answer; asked again while no runner has begun to serve."""

    def once() -> Msg:
        try:
            return with_client(url, ask)
        except nats.errors.NoRespondersError:
            raise AssertionError("nobody serves leads.process") from None

    async def ask(client: Client) -> Msg:
        return await client.request("leads.process", body, timeout=30, headers=headers or None)

    return eventually(once, within=60)


def test_whoever_asks_gets_the_result_and_again_the_same(house: Leadline) -> None:
    house.run()
    first = json.loads(asked(house.url, order("m1")).data)
    assert (first["disposition"], first["executed_actions"]) == (
        "completed",
        ["create_order", "notify_sales"],
    )
    assert first["response"]
    assert json.loads(asked(house.url, order("m1")).data) == first, "JetStream knows it"
    publish_raw(house.url, [to_own_subject(order("m2"))])
    house.wait_idle()
    second = json.loads(asked(house.url, order("m2")).data)
    assert (second["message_id"], second["disposition"]) == ("m2", "completed"), "the lead knows it"
    assert len(view(house.data, "tasks")) == 4


def test_a_message_that_is_refused_is_answered_with_its_reject_also_when_it_comes_again(
    house: Leadline,
) -> None:
    house.run()
    body = message("m1", business="nobody")
    first = json.loads(asked(house.url, body).data)
    assert (first["disposition"], first["success"]) == ("rejected", False)
    assert "unknown business" in first["error"]
    house.wait_idle()
    again = json.loads(asked(house.url, body).data)
    assert {**again, "at": ""} == {**first, "at": ""}


def test_who_does_not_want_to_wait_longer_is_told_that_the_message_is_safe(house: Leadline) -> None:
    house.set(TENANTS + target("notify_sales", "hang", timeout_seconds=600))
    house.run()
    for _ in range(2):
        answer = json.loads(asked(house.url, message("m1"), **{"Timeout-Ms": "300"}).data)
        assert (answer["status"], answer["disposition"]) == ("accepted", "in_progress")
        assert answer["results"] == f"leads.out.acme-foods.{encode(LEAD)}.results"
    assert len(events(house.data, "message_received.v1")) == 1


def test_one_who_waits_long_holds_up_nobody(house: Leadline) -> None:
    house.set(TENANTS + target("create_order", "hang", timeout_seconds=600))
    house.run()
    asked(house.url, message("first", "+1"))

    async def together(client: Client) -> float:
        slow = asyncio.create_task(
            client.request("leads.process", order("slow"), timeout=60, headers={"Timeout-Ms": "20000"})
        )
        began = asyncio.get_running_loop().time()
        for n in range(10):
            await client.request("leads.process", message(f"m{n}", "+1"), timeout=30)
        took = asyncio.get_running_loop().time() - began
        assert not slow.done()
        slow.cancel()
        return took

    assert with_client(house.url, together) < 15


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        (b"{", {}, "not a JSON object"),
        (b"\xff", {}, "not a JSON object"),
        (b"[" * 10_000, {}, ""),
        (b'{"message_id": "m"}', {}, "lead_id is missing"),
        (message("m", "x" * 129), {}, "lead_id must have 1 to 128 characters"),
        (message("m", text="x" * 300_000), {}, "Leadline takes at most 262144"),
        (message("m"), {"Timeout-Ms": "soon"}, "whole number of milliseconds"),
    ],
    ids=["no-json", "no-text", "nested", "no-ids", "long-id", "large", "timeout"],
)
def test_what_cannot_be_published_is_refused_at_once_with_a_reason(
    served: Leadline, body: bytes, headers: dict[str, str], says: str
) -> None:
    answer = asked(served.url, body, **headers)
    assert answer.headers is not None
    assert answer.headers["Nats-Service-Error-Code"] == "400"
    assert says in answer.headers["Nats-Service-Error"]
    assert answer.data == b""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leadline]:
    """One runner for many bad requests."""
    folder = tmp_path_factory.mktemp("served")
    with running_server(folder / "nats") as started, leadline(folder / "house", url=started.url) as made:
        made.run()
        yield made


def test_the_service_is_found_as_any_of_nats(house: Leadline) -> None:
    house.run()
    asked(house.url, message("m1"))

    async def info(client: Client) -> dict[str, Any]:
        answer = await client.request("$SRV.INFO.leadline", b"", timeout=5)
        found: dict[str, Any] = json.loads(answer.data)
        return found

    [endpoint] = with_client(house.url, info)["endpoints"]
    assert (endpoint["subject"], endpoint["queue_group"]) == ("leads.process", "q")


def test_who_still_waits_when_the_runner_is_told_to_end_is_answered(house: Leadline) -> None:
    house.set("drain_seconds = 0\n" + TENANTS + target("notify_sales", "hang", timeout_seconds=600))
    running = house.run()
    asked(house.url, message("m0", "+1"), **{"Timeout-Ms": "1"})

    async def wait_long(client: Client) -> dict[str, Any]:
        waiting = asyncio.create_task(
            client.request("leads.process", message("m1", "+2"), timeout=60, headers={"Timeout-Ms": "50000"})
        )
        await until(lambda: asyncio.to_thread(is_received, house, "m1"))
        running.signal(signal.SIGTERM)
        answer: dict[str, Any] = json.loads((await waiting).data)
        return answer

    assert with_client(house.url, wait_long)["status"] == "accepted"
    assert running.ended() == 0


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110  # a file rings no bell
            await asyncio.sleep(0.02)


def is_received(house: Leadline, message_id: str) -> bool:
    return any(event["message_id"] == message_id for event in events(house.data, "message_received.v1"))


def test_the_examples_ask_and_follow(house: Leadline) -> None:
    house.run()
    asked(house.url, message("first"))
    assert "completed: ['notify_sales']; the lead is told: Thank you" in example("ask.py", house.url, "m-1")
    assert example("ask.py", house.url, "m-1") == example("ask.py", house.url, "m-1")
    followed = example("results.py", house.url, "2").splitlines()
    assert followed == [
        f"acme-foods/{LEAD} first: completed: notify_sales",
        "acme-foods/+4915112345678 m-1: completed: notify_sales",
    ]


def test_the_example_says_that_nobody_answers_where_leadline_is_not_up(house: Leadline) -> None:
    done = run_example("ask.py", house.url)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("nobody answers at leads.process")


def example(name: str, *args: str) -> str:
    """What an example prints."""
    done = run_example(name, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_example(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / name), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
