"""A damaged event in a stream without which the runner does not start: named, skipped by a person, and it starts."""

from __future__ import annotations

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.nats import running_server
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import events, execute, query, view
from tests.support.system_streams import with_older_stream
from tests.support.system_wire import Entry, message, publish_raw

SETTINGS = (
    'modules = ["poison"]\n[leads]\nrestart_delays_seconds = [0.05, 0.05]\n[intake]\ncheckpoint_seconds = 0.1\n'
    + TENANTS
    + SHORT_WAITS
)
POISON = """
from pathlib import Path
from domain.intents.handler import IntentHandler, Plan


class StruckError(BaseException):
    pass


def plan(message, band):
    if not Path("mended").exists():
        raise StruckError
    return Plan(("notify_sales",), "Soon.")


HANDLERS = [IntentHandler("POISON", plan)]
"""


def damage(house: Leadline, name: str, stream: str) -> int:
    """The first event of this name in such a stream cannot be read any more; its position."""
    sql = "SELECT min(rowid) AS row FROM stored_events WHERE topic = ? AND originator_id LIKE ?"
    [found] = query(house.data / "events.db", sql, (name, stream))
    execute(
        house.data / "events.db", "UPDATE stored_events SET state = x'7b' WHERE rowid = ?", [found["row"]]
    )
    return int(found["row"])


def refuses_to_start(house: Leadline, position: int) -> None:
    failed = house.begin("run", "--http-port", "0")
    assert failed.ended() == 1
    assert f"leadline events show {position}" in failed.err
    assert "Traceback" not in failed.err
    [shown] = house.ask("events", "show")
    assert shown["position"] == position


def skip(house: Leadline, position: int) -> str:
    skipped = house.cli("events", "skip", str(position), "--why", "a bad disk", "--by", "ann")
    assert skipped.code == 0, skipped
    [decided] = events(house.data, "event_skipped.v1", "operator:events")
    assert (decided["skipped"], decided["by"], decided["why"]) == (position, "ann", "a bad disk")
    return skipped.out


def whole(house: Leadline, *words: str) -> None:
    """The runner starts, works, and what a rebuild makes is what there is."""
    house.run(*words)
    house.publish([message("m-new", "+new")])
    house.wait_idle()
    rows = view(house.data, "processed_messages")
    assert {row["disposition"] for row in rows if row["message_id"] == "m-new"} == {"completed"}


def views_anew(house: Leadline) -> None:
    for file in house.data.glob("views.db*"):
        file.unlink()


def test_a_reject_that_cannot_be_read_keeps_the_runner_from_starting_until_it_is_skipped(
    house: Leadline,
) -> None:
    house.set(SETTINGS.replace('["poison"]', "[]"))
    runner = house.run()
    publish_raw(house.url, [Entry("leads.in.acme-foods.=2B1", body) for body in (b"nonsense", b"more of it")])
    house.publish([message("m-1", "+1")])
    house.wait_idle()
    assert runner.terminate() == 0
    position = damage(house, "message_rejected.v1", "rejects:%")
    views_anew(house)
    refuses_to_start(house, position)
    said = skip(house, position)
    assert "is read without it at the next start" in said
    whole(house)
    [letter] = view(house.data, "dead_letter_queue")
    assert letter["original_payload"] == "more of it"
    assert house.cli("dlq", "discard", letter["id"], "--timeout", "60").code == 0
    house.wait_idle()
    assert house.cli("rebuild", "--verify").code == 0


def test_a_lead_whose_stop_was_skipped_stays_behind_its_kept_mail_until_it_is_resumed(
    house: Leadline,
) -> None:
    (house.folder / "poison.py").write_text(POISON)
    house.set(SETTINGS)
    runner = house.run()
    house.publish([message("m-1", "+1", intent="POISON"), message("m-2", "+1")])
    eventually(lambda: len(kept(house)) == 2, within=PATIENCE)
    assert runner.terminate() == 0
    position = damage(house, "lead_stopped.v1", "rejects:%")
    views_anew(house)
    refuses_to_start(house, position)
    skip(house, position)
    (house.folder / "mended").touch()
    whole(house)
    house.publish([message("m-3", "+1")])
    eventually(lambda: len(kept(house)) == 3, within=PATIENCE)
    assert house.cli("lead", "resume", "acme-foods", "+1", "--timeout", "60").code == 0
    house.wait_idle()
    taken = [e["message_id"] for e in events(house.data, "message_received.v1", "lead:acme-foods:=2B1")]
    assert taken == ["m-1", "m-2", "m-3"]
    assert {row["status"] for row in view(house.data, "dead_letter_queue")} == {"resolved"}
    assert house.cli("rebuild", "--verify").code == 0


def test_a_rewind_that_cannot_be_read_is_skipped_and_nothing_of_the_stream_is_left_unread(
    tmp_path: Path,
) -> None:
    """After it the stream has grown beyond where it once ended: only the record of the rewind tells the two apart."""
    with leadline(tmp_path, settings=TENANTS + SHORT_WAITS) as house:
        with_older_stream(house, 5, 25)
        up = house.up()
        house.publish([message(f"m-{n}") for n in range(30, 33)])
        house.wait_idle()
        up.kill()
        with running_server(house.data) as server:
            house.url = server.url
            house.publish([message(f"m-{n}") for n in range(33, 60)])
        house.url = ""
        position = damage(house, "stream_rewound.v1", "intake:%")
        views_anew(house)
        failed = house.begin("up", "--nats-port", "0", "--http-port", "0")
        assert failed.ended() == 1
        assert f"leadline events show {position}" in failed.err
        skip(house, position)
        house.up()
        house.wait_idle()
        rows = view(house.data, "processed_messages")
        assert {row["message_id"] for row in rows} == {f"m-{n}" for n in (*range(25), *range(30, 60))}
        assert len(view(house.data, "tasks")) == 55
        assert house.cli("rebuild", "--verify").code == 0


def kept(house: Leadline) -> list[str]:
    return [event["message_id"] for event in events(house.data, "message_rejected.v1", "rejects:%")]
