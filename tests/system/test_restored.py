"""Stores that are damaged, lost or older than what stands beside them: seen, said, and mended without a loss."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.eventually import eventually
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import events, execute, query, view
from tests.support.system_streams import with_older_stream
from tests.support.system_targets import target
from tests.support.system_wire import message

SETTINGS = "[leads]\nrestart_delays_seconds = [0.05, 0.05]\n" + TENANTS + SHORT_WAITS


def test_a_flipped_byte_stops_the_views_and_its_lead_where_it_can_be_seen_and_nobody_else(
    house: Leadline,
) -> None:
    house.set(SETTINGS)
    runner = house.run()
    house.publish([message("m-1", "+1"), message("m-2", "+2")])
    house.wait_idle()
    assert runner.terminate() == 0
    whole = flip_a_byte(house, "m-1")
    for file in house.data.glob("views.db*"):
        file.unlink()
    runner = house.run()
    house.publish([message("m-3", "+1"), message("m-4", "+2"), message("m-5", "+3")])
    eventually(lambda: received(house) >= {"m-4", "m-5"} and bool(stopped(house)), within=PATIENCE)
    assert stopped(house) == ["lead:acme-foods:=2B1"]
    eventually(lambda: views_have_stopped(house), within=PATIENCE)
    assert "version 2 of lead:acme-foods:=2B1" in house.ask("status")["views"]["stopped_error"]
    waited = house.cli("status", "--wait-idle", "--timeout", "5")
    assert waited.code == 1
    assert "stopped" in waited.err
    verified = house.cli("rebuild", "--verify")
    assert verified.code == 1
    assert "Traceback" not in verified.err + runner.err
    assert runner.terminate() == 0
    restore(house, whole)
    assert house.begin("run", "--until-idle", "--http-port", "0").ended() == 0, (
        "mended: nothing stops it any more"
    )
    house.run()
    house.wait_idle()
    [letter] = view(house.data, "dead_letter_queue")
    assert (letter["category"], letter["message_id"]) == ("lead_stopped", "m-3")
    answer = house.cli("lead", "resume", "acme-foods", "+1")
    assert answer.code == 0, answer
    house.wait_idle()
    assert all_completed(house) == {f"m-{n}" for n in range(1, 6)}
    assert house.cli("rebuild", "--verify").code == 0


def test_a_flipped_byte_keeps_no_other_leads_work_from_going_on_after_a_start(house: Leadline) -> None:
    """H24: the views, which say what is unfinished, never come that far."""
    house.set(TENANTS + "[retry]\ndelays_seconds = [5.0]\n" + target("notify_sales", "done", "fail"))
    runner = house.run()
    house.publish([message("m-1", "+1")])
    house.wait_idle()
    house.publish([message("m-2", "+2")])
    eventually(lambda: bool(events(house.data, "action_deferred.v1", "lead:%")), within=PATIENCE)
    assert runner.terminate() == 0
    flip_a_byte(house, "m-1")
    for file in house.data.glob("views.db*"):
        file.unlink()
    house.run()
    eventually(lambda: views_have_stopped(house), within=PATIENCE)
    eventually(lambda: "m-2" in received(house), within=PATIENCE)


def test_an_event_that_is_skipped_holds_up_neither_the_views_nor_its_lead(house: Leadline) -> None:
    house.set(SETTINGS)
    runner = house.run()
    house.publish([message("m-1", "+1"), message("m-2", "+2")])
    house.wait_idle()
    assert runner.terminate() == 0
    position, _ = flip_a_byte(house, "m-1")
    for file in house.data.glob("views.db*"):
        file.unlink()
    house.run()
    house.publish([message("m-3", "+1"), message("m-4", "+2")])
    eventually(lambda: views_have_stopped(house) and bool(stopped(house)), within=PATIENCE)
    [shown] = house.ask("events", "show")
    assert (shown["position"], shown["stops_views"]) == (position, True)
    assert "confidenbe" in shown["raw"]
    refused = house.cli("lead", "resume", "acme-foods", "+1", "--timeout", "60")
    eventually(lambda: len(stopped(house)) == 2, within=PATIENCE)
    assert refused.code == 0, "it is let go, reads its events, and is stopped again"
    skipped = house.cli("events", "skip", str(position), "--why", "a bad disk", "--by", "ann")
    assert skipped.code == 0, skipped
    eventually(lambda: not views_have_stopped(house), within=PATIENCE)
    assert house.cli("lead", "resume", "acme-foods", "+1", "--timeout", "60").code == 0
    house.wait_idle()
    assert all_completed(house) == {"m-1", "m-2", "m-3", "m-4"}
    assert house.cli("rebuild", "--verify").code == 0
    assert house.ask("events", "show")[0]["skipped"]


def test_a_breaker_whose_event_cannot_be_read_keeps_the_runner_from_working_until_it_is_skipped(
    house: Leadline,
) -> None:
    house.set(
        SETTINGS + "[breaker]\nminimum_calls = 1\nopen_seconds = 600\n" + target("notify_sales", "fail")
    )
    runner = house.run()
    house.publish([message("m-1", "+1")])
    eventually(lambda: bool(events(house.data, "breaker_opened.v1")), within=PATIENCE)
    runner.kill()
    sql = "SELECT rowid AS row FROM stored_events WHERE topic = 'breaker_opened.v1'"
    [opened] = query(house.data / "events.db", sql)
    restore(house, (opened["row"], b"{"))
    failed = house.begin("run", "--http-port", "0")
    assert failed.ended() == 1
    assert f"leadline events show {opened['row']}" in failed.err
    assert "Traceback" not in failed.err
    assert house.cli("events", "skip", str(opened["row"]), "--why", "a bad disk").code == 0
    house.run()
    house.publish([message("m-2", "+2", "acme-deli")])
    eventually(lambda: any(r["message_id"] == "m-2" for r in events(house.data, "message_received.v1")))


def test_an_older_event_store_is_noticed_beside_newer_views_and_what_it_lacks_is_read_again(
    house: Leadline,
) -> None:
    runner = house.run()
    house.publish([message(f"m-{n}", f"+{n}") for n in range(5)])
    house.wait_idle()
    assert runner.terminate() == 0
    older = house.folder / "older.db"
    with closing(sqlite3.connect(house.data / "events.db")) as one, closing(sqlite3.connect(older)) as copy:
        one.backup(copy)
    runner = house.run()
    house.publish([message(f"m-{n}", f"+{n % 5}") for n in range(5, 15)])
    house.wait_idle()
    assert runner.terminate() == 0
    for file in house.data.glob("events.db*"):
        file.unlink()
    shutil.copy(older, house.data / "events.db")
    house.run()
    house.wait_idle()
    assert all_completed(house) == {f"m-{n}" for n in range(15)}
    assert len(view(house.data, "tasks")) == 15
    assert house.cli("rebuild", "--verify").code == 0


def test_a_stream_made_anew_is_read_from_its_beginning_and_nothing_is_done_twice(tmp_path: Path) -> None:
    with leadline(tmp_path, settings=TENANTS + SHORT_WAITS) as house:
        up = house.up()
        house.publish([message(f"m-{n}") for n in range(5)])
        house.wait_idle()
        assert up.terminate() == 0
        shutil.rmtree(house.data / "jetstream")
        house.up()
        house.publish([message(f"m-{n}") for n in range(3, 8)])
        house.wait_idle()
        assert all_completed(house) == {f"m-{n}" for n in range(8)}
        assert len(view(house.data, "tasks")) == 8


def test_a_stream_restored_from_an_older_copy_hands_out_sequences_again_and_none_is_skipped(
    tmp_path: Path,
) -> None:
    with leadline(tmp_path, settings=TENANTS + SHORT_WAITS) as house:
        with_older_stream(house, 5, 10)
        house.up()
        house.publish([message(f"m-{n}") for n in range(8, 13)])
        house.wait_idle()
        assert all_completed(house) == {f"m-{n}" for n in range(13)}
        assert len(view(house.data, "tasks")) == 13
        assert events(house.data, "stream_rewound.v1", "intake:%")


def test_views_that_are_deleted_under_a_live_runner_come_back_while_it_works(house: Leadline) -> None:
    house.run()
    for n in range(5):
        house.publish([message(f"m-{n}-{lead}", f"+{lead}") for lead in range(20)])
        for file in house.data.glob("views.db*"):
            file.unlink(missing_ok=True)
    house.wait_idle()
    assert len(view(house.data, "tasks")) == 100
    assert house.cli("rebuild", "--verify").code == 0


def flip_a_byte(house: Leadline, message_id: str) -> tuple[int, bytes]:
    """One event of a message cannot be read any more; its row and what it was."""
    sql = "SELECT rowid AS row, state FROM stored_events WHERE topic = 'intent_detected.v1'"
    [found] = [row for row in query(house.data / "events.db", sql) if message_id.encode() in row["state"]]
    state: bytes = found["state"]
    flipped = state.replace(b'"confidence"', b'"confidenbe"', 1)
    assert flipped != state
    restore(house, (found["row"], flipped))
    return found["row"], state


def restore(house: Leadline, event: tuple[int, bytes]) -> None:
    row, state = event
    execute(house.data / "events.db", "UPDATE stored_events SET state = ? WHERE rowid = ?", [state, row])


def received(house: Leadline) -> set[str]:
    return {event["message_id"] for event in events(house.data, "message_completed.v1", "lead:%")}


def stopped(house: Leadline) -> list[str]:
    return [event["lead_stream"] for event in events(house.data, "lead_stopped.v1")]


def views_have_stopped(house: Leadline) -> bool:
    try:
        return (
            query(house.data / "views.db", "SELECT stopped_error FROM views_meta")[0]["stopped_error"]
            is not None
        )
    except sqlite3.OperationalError:
        return False  # they are only being made


def all_completed(house: Leadline) -> set[str]:
    """Ids of the messages, every one of which must be completed."""
    rows = view(house.data, "processed_messages")
    assert {row["disposition"] for row in rows} == {"completed"}, rows
    return {row["message_id"] for row in rows}
