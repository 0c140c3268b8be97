"""Results and replies over a real server: each out, in order, a reply once, whatever dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from domain.events import ActionsPlanned, Recorded
from outbox.relay import RelaySettings
from outbox.sending import WORTH_A_BATCH, NotConfirmedError, Publication, Sender
from tests.support.nats import TestServer, running_server
from tests.support.outbox import (
    FullFile,
    Out,
    Relaying,
    commands,
    make_streams,
    out,
    wait_for_a_duplicate_window,
)
from tests.support.projections_log import MemoryLog
from tests.support.projections_story import START, LeadStory, Story, rejected
from tests.support.proxy import proxy_before

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as started:
        make_streams(started.url)
        yield started


class Told:
    """A story, its log, and the clock of whoever relays it."""

    def __init__(self, server: TestServer, folder: Path, story: Story | None = None) -> None:
        self.story = story or Story()
        self.log = MemoryLog(self.story.recorded)
        self.now: datetime | None = None
        #: Event ids begin with it: no two processes give the same.
        self.process = ""
        self.relaying = Relaying(server.url, folder, self.log, lambda: self.now or self.story.now)
        self.relaying.position()

    def lead(self, lead: str = "+49 151/1", business: str = "acme") -> LeadStory:
        return LeadStory(self.story, business, lead)

    def record(self) -> None:
        """What was told since is in the log."""
        known = len(self.log.rows)
        for recorded in self.story.recorded[known:]:
            event_id = self.process + recorded.event_id
            self.log.append(msgspec.structs.replace(recorded, trace=TRACE, event_id=event_id))

    def relay(self, *, dies: bool = False) -> None:
        self.record()
        self.relaying.run(dies=dies)


@pytest.fixture
def told(server: TestServer, tmp_path: Path) -> Told:
    return Told(server, tmp_path)


def test_each_disposition_is_published_under_its_lead_with_its_trace(told: Told, server: TestServer) -> None:
    lead = told.lead()
    lead.whole("m1")
    lead.add(lead.received("m2"), ActionsPlanned("m2", 1, (), escalate=False, response="soon"))
    lead.add(lead.executed("m2"), lead.failed("m2"), lead.compensated("m2"))
    lead.add(lead.dead_lettered("m2"))
    told.story.add("rejects:3", rejected("r-1", message="m3"))
    told.relay()
    found = out(server.url, "results")
    assert {one.subject for one in found} == {"leads.out.acme.=2B49=20151=2F1.results"}
    assert [(one.message_id, one.body["disposition"], one.body["success"]) for one in found] == [
        ("m1", "completed", True),
        ("m2", "dead_lettered", False),
        ("m3", "rejected", False),
    ]
    assert found[1].body["compensated_actions"] == ["notify_sales"]
    for one in found:
        assert one.headers["traceparent"] == TRACE
        assert one.body["trace_id"] == TRACE.split("-")[1]
        assert one.headers["Nats-Msg-Id"].endswith("/results")


def test_results_of_a_lead_are_in_the_order_of_its_events_in_any_batches(
    told: Told, server: TestServer
) -> None:
    told.relaying.settings = msgspec.structs.replace(told.relaying.settings, batch=7)
    for n in range(60):
        told.lead(f"+{n % 3}").whole(f"m{n}")
    told.relay()
    for lead in range(3):
        mine = [one for one in out(server.url) if one.subject.startswith(f"leads.out.acme.=2B{lead}.")]
        for kind in ("results", "replies"):
            ids = [one.message_id for one in mine if one.kind == kind]
            assert ids == [f"m{n}" for n in range(lead, 60, 3)]


def test_a_reply_says_until_when_it_may_be_sent(told: Told, server: TestServer) -> None:
    lead = told.lead()
    lead.whole("m1")
    told.relay()
    [reply] = out(server.url, "replies")
    assert reply.subject == "leads.out.acme.=2B49=20151=2F1.replies"
    assert (reply.message_id, reply.body["text"], reply.body["lead_id"]) == ("m1", "soon", "+49 151/1")
    received = told.story.recorded[0].at
    assert datetime.fromisoformat(reply.body["window_ends_at"]) == received + timedelta(hours=24)


def test_only_a_completed_message_is_replied_to(told: Told, server: TestServer) -> None:
    lead = told.lead()
    lead.add(lead.received("m1"), lead.failed("m1"), lead.dead_lettered("m1"))
    told.relay()
    assert out(server.url, "replies") == []
    lead.add(lead.retried("m1"))
    told.relay()
    lead.add(*[e.event for e in whole_of(lead, "m1")][2:])
    told.relay()
    assert [one.body["disposition"] for one in out(server.url, "results")] == ["dead_lettered", "completed"]
    assert [one.message_id for one in out(server.url, "replies")] == ["m1"]


def whole_of(lead: LeadStory, message: str) -> list[Recorded]:
    """The events of a message that is done, in a story of their own."""
    other = LeadStory(Story(), lead.business, lead.lead)
    other.whole(message)
    return other.story.recorded


# a reply goes out once


@pytest.mark.parametrize("count", [5, 50], ids=["singly", "in-batches"])
def test_killed_before_its_position_moved_results_come_again_with_their_id_and_replies_do_not(
    tmp_path: Path, count: int
) -> None:
    with running_server(tmp_path / "nats") as server:
        make_streams(server.url, duplicate_window=0.1)
        told = Told(server, tmp_path)
        for n in range(count):
            told.lead(f"+{n % 2}").whole(f"m{n}")
        told.relay(dies=True)
        assert len(out(server.url, "replies")) == count
        before = out(server.url, "results")
        assert {bool(one.batch) for one in before} == {2 * count >= WORTH_A_BATCH}
        wait_for_a_duplicate_window(server.url)
        told.lead(f"+{count % 2}").whole(f"m{count}")
        told.relay(dies=True)
        wait_for_a_duplicate_window(server.url)
        told.relay()
        results, replies = out(server.url, "results"), out(server.url, "replies")
        for lead in range(2):
            mine = [one.message_id for one in replies if one.body["lead_id"] == f"+{lead}"]
            assert mine == [f"m{n}" for n in range(lead, count + 1, 2)]
        assert len(results) == count + (count + 1) * 2
        assert by_id(results[count : 2 * count + 1])[:count] == by_id(before)
        assert len({one.headers["Nats-Msg-Id"] for one in results}) == count + 1


def by_id(found: list[Out]) -> list[tuple[int, str, dict[str, Any]]]:
    """Without their batches, sorted by the number of their message."""
    return sorted((int(one.message_id[1:]), one.headers["Nats-Msg-Id"], one.body) for one in found)


@pytest.mark.parametrize("count", [2, 30], ids=["singly", "in-a-batch"])
def test_a_reply_whose_confirmation_was_lost_is_looked_for_before_it_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Also where no earlier process can have sent it, and JetStream has forgotten its id."""
    send = Sender.send
    lost: list[Publication] = []

    async def send_and_lose(sender: Sender, publications: dict[int, Publication]) -> None:
        replies = [p for p in publications.values() if p.subject.endswith(".replies")]
        if not replies or lost:
            await send(sender, publications)
            return
        lost.extend(replies)
        await send(sender, dict(publications))
        await asyncio.to_thread(wait_for_a_duplicate_window, forgetful.url)
        raise NotConfirmedError("the answer was lost")

    with running_server(tmp_path / "nats") as forgetful:
        make_streams(forgetful.url, duplicate_window=0.1)
        told = Told(forgetful, tmp_path)

        async def record() -> None:
            for n in range(count):
                told.lead().whole(f"m{n}")
            told.record()

        monkeypatch.setattr(Sender, "send", send_and_lose)
        told.relaying.before = record
        told.relaying.run()
        assert [one.message_id for one in out(forgetful.url, "replies")] == [f"m{n}" for n in range(count)]
        assert len(lost) == count


def test_a_backlog_goes_out_in_batches_results_and_replies_together(told: Told, server: TestServer) -> None:
    for n in range(200):
        told.lead(f"+{n % 7}").whole(f"m{n}")
    told.relay()
    found = out(server.url)
    assert len({one.batch for one in found}) == 1, "several replies of a lead are in it"
    assert [one.kind for one in found] == ["results"] * 200 + ["replies"] * 200
    for some in found[:200], found[200:]:
        assert [one.message_id for one in some] == [f"m{n}" for n in range(200)]


def test_a_backlog_of_which_a_batch_is_cut_is_out_once_and_in_order(told: Told, server: TestServer) -> None:
    count = 400
    told.relaying.settings = msgspec.structs.replace(told.relaying.settings, batch=500)

    async def cut_amid_the_second_batch() -> None:
        for n in range(count):
            told.lead(f"+{n % 7}").whole(f"m{n}")
        told.record()
        proxy.cut_after_sending(200_000)

    with proxy_before(server.port) as proxy:
        told.relaying.url = proxy.url
        told.relaying.before = cut_amid_the_second_batch
        told.relaying.run()
        assert proxy.cuts == 1
    assert len({one.batch for one in out(server.url)}) == 4
    for kind in "results", "replies":
        found = out(server.url, kind)
        assert len(found) == count
        for lead in range(7):
            mine = [one.message_id for one in found if one.body["lead_id"] == f"+{lead}"]
            assert mine == [f"m{n}" for n in range(lead, count, 7)]


def test_a_reply_that_is_out_is_no_task_when_the_window_closes_before_the_next_start(
    told: Told, server: TestServer
) -> None:
    told.lead().whole("m1")
    told.relay(dies=True)
    told.now = START + timedelta(days=3)
    told.relay()
    assert len(out(server.url, "replies")) == 1
    assert commands(server.url) == []


def test_another_life_does_not_take_an_old_reply_for_its_own(told: Told, server: TestServer) -> None:
    for n in range(4):
        told.lead().whole(f"m{n}")
    told.relay()
    older = Story()
    LeadStory(older).whole("m0")
    restored = Told(server, told.relaying.path.parent, older)
    assert restored.relaying.position().position == 5
    restored.process = "another-"
    restored.lead().whole("m9")
    restored.relay(dies=True)
    restored.relay()
    assert [one.message_id for one in out(server.url, "replies")] == ["m0", "m1", "m2", "m3", "m9"]


# the window


@pytest.mark.parametrize(("late", "replies"), [(-1, 1), (0, 0), (1, 0)])
def test_the_window_is_open_for_24_hours_to_the_microsecond(
    told: Told, server: TestServer, late: int, replies: int
) -> None:
    told.lead().whole("m1")
    told.now = told.story.recorded[0].at + timedelta(hours=24, microseconds=late)
    told.relay()
    assert len(out(server.url, "replies")) == replies
    assert len(commands(server.url)) == 1 - replies


def test_after_the_window_the_lead_is_told_so_by_a_command_that_is_the_same_however_often_it_is_sent(
    told: Told, server: TestServer
) -> None:
    told.lead().whole("m1")
    told.now = START + timedelta(days=2)
    told.relay(dies=True)
    told.relay()
    [command] = commands(server.url)  # JetStream knows the second by its id; the lead would too
    assert (command["command"], command["by"]) == ("expire_reply", "leadline")
    assert command["command_id"] == f"reply/{told.story.recorded[4].event_id}"
    assert (command["message_id"], command["text"], command["response"]) == ("m1", "how much?", "soon")
    assert command["intent"] == "PRICING_INQUIRY"
    assert out(server.url, "replies") == []


def test_the_window_begins_when_the_lead_wrote_as_its_message_says_it(told: Told, server: TestServer) -> None:
    lead = told.lead()
    _, *rest = [r.event for r in whole_of(lead, "m1")]
    lead.add(lead.received("m1", received_at=START - timedelta(hours=23)), *rest)
    told.now = START + timedelta(hours=2)
    told.relay()
    assert out(server.url, "replies") == []
    assert len(commands(server.url)) == 1


def test_a_message_whose_window_was_over_when_it_came_has_neither_reply_nor_task(
    told: Told, server: TestServer
) -> None:
    lead = told.lead()
    _, *rest = [r.event for r in whole_of(lead, "m1")]
    lead.add(lead.received("m1", received_at=START - timedelta(hours=25)), *rest)
    told.relay()
    assert out(server.url, "replies") == []
    assert commands(server.url) == []
    assert len(out(server.url, "results")) == 1


def test_a_later_message_keeps_the_window_open_also_for_what_was_to_be_said_before(
    told: Told, server: TestServer
) -> None:
    told.lead().whole("m1")
    told.story.now += timedelta(hours=30)
    told.lead().whole("m2")
    told.relay()
    assert [one.message_id for one in out(server.url, "replies")] == ["m1", "m2"]
    assert commands(server.url) == []


def test_a_later_message_that_was_written_before_does_not_close_the_window_of_an_earlier_one(
    told: Told, server: TestServer
) -> None:
    lead = told.lead()
    _, *rest = [r.event for r in whole_of(lead, "m2")]
    lead.whole("m1")
    told.relay()
    lead.add(lead.received("m2", received_at=START - timedelta(hours=20)), *rest)
    told.now = START + timedelta(hours=5)
    told.relay()
    assert [one.message_id for one in out(server.url, "replies")] == ["m1", "m2"]
    assert commands(server.url) == []


# what holds it up


def test_while_nats_is_away_it_waits_says_so_once_and_goes_on_when_it_is_back(
    told: Told, server: TestServer
) -> None:
    for n in range(20):
        told.lead(f"+{n}").whole(f"m{n}")
    told.record()
    restarted = False

    def back_and_out() -> bool:
        nonlocal restarted
        if not restarted:
            if not told.relaying.said:
                return False
            server.start()
            restarted = True
        return told.relaying.all_is_out()

    async def killed_under_way() -> None:
        await asyncio.to_thread(server.kill)

    told.relaying.before = killed_under_way
    told.relaying.run(until=back_and_out)
    assert {one.message_id for one in out(server.url, "results")} == {f"m{n}" for n in range(20)}
    assert sorted(one.message_id for one in out(server.url, "replies")) == sorted(f"m{n}" for n in range(20))
    assert any("held up" in line for line in told.relaying.said)
    assert len(told.relaying.said) == len(set(told.relaying.said))


def test_an_event_that_cannot_be_read_stops_it_there_where_it_can_be_seen_until_it_is_mended(
    told: Told, server: TestServer
) -> None:
    for n in range(4):
        told.lead(f"+{n}").whole(f"m{n}")
    told.record()
    told.log.corrupt.add(13)
    told.relaying.run(until=lambda: told.relaying.position().stopped is not None)
    standing = told.relaying.position()
    assert standing.position == 11, "event 12 is of no kind that it needs"
    assert "event 13" in (standing.stopped or "")
    assert {one.message_id for one in out(server.url, "results")} == {"m0", "m1"}
    told.log.corrupt.clear()
    told.relaying.run()
    assert told.relaying.position().stopped is None
    assert [one.message_id for one in out(server.url, "results")] == ["m0", "m1", "m2", "m3"]
    assert len(out(server.url, "replies")) == 4


def test_an_event_of_which_what_came_before_cannot_be_read_stops_it_there_too(
    told: Told, server: TestServer
) -> None:
    lead = told.lead()
    whole = [r.event for r in whole_of(lead, "m1")]
    lead.add(*whole[:3])
    told.relay()
    lead.add(*whole[3:])
    told.lead("+2").whole("m2")
    told.record()
    told.log.corrupt.add(1)
    told.relaying.run(until=lambda: told.relaying.position().stopped is not None)
    standing = told.relaying.position()
    assert standing.position < 5
    assert "event 5" in (standing.stopped or "")
    assert out(server.url) == []
    told.log.corrupt.clear()
    told.relaying.run()
    assert [one.message_id for one in out(server.url, "results")] == ["m1", "m2"]


def test_while_its_disk_is_full_nothing_that_is_out_is_sent_again_and_it_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FullFile, "times", 30)
    with running_server(tmp_path / "nats") as server:
        make_streams(server.url, duplicate_window=0.1)
        told = Told(server, tmp_path)
        for n in range(5):
            told.lead(f"+{n % 2}").whole(f"m{n}")
        told.relay()
        assert FullFile.times == 0
        assert len(out(server.url, "replies")) == len(out(server.url, "results")) == 5
        assert [line for line in told.relaying.said if "disk is full" in line] == told.relaying.said
        assert len(told.relaying.said) == 1


def test_what_is_switched_off_is_not_published(told: Told, server: TestServer) -> None:
    told.lead().whole("m1")
    told.relaying.settings = msgspec.structs.replace(told.relaying.settings, results=False)
    told.relay()
    assert [one.kind for one in out(server.url)] == ["replies"]
    told.lead().whole("m2")
    told.relaying.settings = msgspec.structs.replace(told.relaying.settings, results=True, replies=False)
    told.relay()
    assert [one.kind for one in out(server.url)] == ["replies", "results"]


# how often it looks


def test_few_messages_wait_no_longer_for_more_and_a_flood_is_gathered() -> None:
    settings = RelaySettings(batch=3000, linger=0.025, gather=0.1, flood=6000)
    assert settings.pause(6, 0.025) == 0.025
    assert settings.pause(149, 0.025) == 0.025
    assert settings.pause(151, 0.025) == 0.1
    assert settings.pause(601, 0.1) == 0.1
    assert settings.pause(599, 0.1) == 0.025
    assert settings.pause(3000, 0.1) == 0.0
    assert msgspec.structs.replace(settings, linger=1.0).pause(151, 0.025) == 1.0
