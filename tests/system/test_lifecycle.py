"""How the processes live and end: signals, what a killed one leaves behind, metrics, `--until-idle`."""

from __future__ import annotations

import signal
import urllib.request
from pathlib import Path

from actors.ownership import Owner, owner_of
from tests.support.eventually import eventually
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import by_stream, count_events, events, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import message


def test_up_serves_metrics_and_ends_in_an_orderly_way_on_sigterm(tmp_path: Path) -> None:
    with leadline(tmp_path) as house:
        up = house.up()
        children = children_of(up.pid)
        house.publish([message(f"m-{n}", f"+{n % 3}") for n in range(20)])
        house.wait_idle()
        with urllib.request.urlopen(up.said("metrics"), timeout=30) as answer:
            shown = answer.read().decode()
        assert 'whatsapp_messages_received_total{business="acme-foods"} 20.0' in shown
        assert "# TYPE ai_intent_confidence histogram" in shown
        assert up.terminate() == 0
        eventually(lambda: not living(children), within=PATIENCE)
        assert "Traceback" not in up.err
        position = count_events(house.data)
        house.up()
        house.wait_idle()
        assert count_events(house.data) == position
        assert len(view(house.data, "tasks")) == 20


def test_short_runs_one_after_the_other_do_not_let_the_stream_fill(house: Leadline) -> None:
    small = "[stream]\nkeep_hours = 0\nmax_bytes = 1_048_576\n"
    house.set(TENANTS + SHORT_WAITS + small)
    for turn in range(3):
        lines = [message(f"m-{turn}-{n}", f"+{n}", text="long " * 1000) for n in range(100)]
        (house.folder / "some.jsonl").write_bytes(b"\n".join(lines))
        published = house.cli("publish", "some.jsonl")
        assert published.code == 0, "half a MiB each: three are more than the stream holds"
        assert house.cli("run", "--until-idle", "--http-port", "0").code == 0
    assert len(view(house.data, "tasks")) == 300


def test_a_killed_up_leaves_no_server_and_no_projector_behind(tmp_path: Path) -> None:
    with leadline(tmp_path) as house:
        up = house.up()
        children = children_of(up.pid)
        assert len(children) >= 2, "nats-server and the projector"
        house.publish([message("m-1")])
        up.signal(signal.SIGKILL)
        up.ended()
        eventually(lambda: not living(children), within=PATIENCE)
        house.up()
        house.wait_idle()
        assert len(view(house.data, "tasks")) == 1


def test_a_runner_started_while_another_drains_waits_for_it_and_no_lead_loses_its_order(
    house: Leadline,
) -> None:
    slow = target("notify_sales", delay_ms=1500, workers=2, ledger=LEDGER)
    house.set("drain_seconds = 60\n" + TENANTS + SHORT_WAITS + slow)
    old = house.run()
    house.publish([message(f"m-{n}", f"+{n % 4}") for n in range(12)])
    eventually(lambda: bool(events(house.data, "action_started.v1")), within=PATIENCE)
    old.signal(signal.SIGTERM)
    new = house.begin("run", "--http-port", "0")
    house.publish([message(f"m-{n}", f"+{n % 4}") for n in range(12, 20)])
    seen = eventually(lambda: draining(house), within=PATIENCE)
    assert any("the call acme-foods/=2B" in what for what in seen.waiting_for)
    assert old.ended() == 0
    new.ready()
    house.wait_idle()
    assert "which drains" in new.err
    completed = by_stream(events(house.data, "message_completed.v1"), "message_id")
    assert {stream: sorted(ids, key=number) for stream, ids in completed.items()} == completed
    assert sum(map(len, completed.values())) == 20
    keys = [call["key"] for call in ledger(house)]
    assert len(keys) == len(set(keys)) == 20, "what was in flight was waited for, and not called again"


def number(message_id: str) -> int:
    return int(message_id.removeprefix("m-"))


def draining(house: Leadline) -> Owner:
    """What a draining owner says, once it does."""
    owner = owner_of(house.data)
    assert owner is not None
    assert owner.state == "draining"
    return owner


def test_status_says_what_a_draining_runner_still_waits_for(house: Leadline) -> None:
    house.set("drain_seconds = 600\n" + TENANTS + target("notify_sales", "hang", timeout_seconds=600))
    runner = house.run()
    house.wait_idle()  # the views are there
    assert house.ask("status")["runner"]["state"] == "working"
    house.publish([message("m-1")])
    eventually(lambda: bool(events(house.data, "action_started.v1")), within=PATIENCE)
    runner.signal(signal.SIGTERM)
    eventually(lambda: draining(house), within=PATIENCE)
    answer = house.cli("status")
    assert f"process {runner.pid} drains" in answer.out
    assert "0.notify_sales" in answer.out
    runner.kill()
    assert house.ask("status")["runner"] is None
    assert "no runner works on this folder" in house.cli("status").out


def test_a_second_sigterm_ends_at_once_what_the_first_one_waits_for(house: Leadline) -> None:
    house.set("drain_seconds = 600\n" + TENANTS + target("notify_sales", "hang", timeout_seconds=600))
    runner = house.run()
    house.publish([message("m-1")])
    eventually(lambda: count_events(house.data) >= 4, within=PATIENCE)
    runner.signal(signal.SIGTERM)
    eventually(lambda: "a second signal" in runner.out, within=PATIENCE)
    runner.signal(signal.SIGTERM)
    assert runner.ended() == 1
    house.set(TENANTS + SHORT_WAITS + target("notify_sales"))
    house.run()
    house.wait_idle()
    assert len(view(house.data, "tasks")) == 1


def test_a_runner_that_was_stopped_and_continued_goes_on_where_it_was(house: Leadline) -> None:
    runner = house.run()
    house.publish([message("m-before")])
    runner.signal(signal.SIGSTOP)
    house.publish([message(f"m-{n}", f"+{n % 7}") for n in range(100)])
    runner.signal(signal.SIGCONT)
    house.wait_idle()
    assert len(view(house.data, "processed_messages")) == len(view(house.data, "tasks")) == 101
    assert runner.terminate() == 0


def test_until_idle_ends_once_everything_is_done_and_dead_letters_do_not_hold_it(house: Leadline) -> None:
    house.set(TENANTS + SHORT_WAITS + target("notify_sales", "fail", "done", "fail_for_good"))
    house.publish([message("m-1"), message("m-2")])
    runner = house.begin("run", "--until-idle", "--http-port", "0")
    assert runner.ended() == 0, runner.err
    rows = view(house.data, "processed_messages")
    assert {row["message_id"]: row["disposition"] for row in rows} == {
        "m-1": "completed",
        "m-2": "dead_lettered",
    }


def children_of(pid: int) -> set[int]:
    """Every process below one, at this moment."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= {int(child)} | children_of(int(child))
    return found


def living(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    return {pid for pid in pids if _state(pid) not in ("", "Z")}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
