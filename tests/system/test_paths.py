"""Folders may have any name: what SQLite's URIs and SQLAlchemy's URLs give a meaning means nothing here."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.event_store import EventStore
from actors.journal import open_recorder
from projections.queries import Views
from projections.rebuild import rebuild
from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline, leadline
from tests.support.system_sql import count_events, view
from tests.support.system_targets import LEDGER, ledger, target
from tests.support.system_wire import order

ODD = (
    "que?ry",
    "#frag",
    "pct%41",
    "a b",
    "über",
    'o\'clock "x"',
    "mode=memory",
    ":memory:",
    "a&b=c;d",
    "[x]*",
)
#: A part that is taken for something else puts the files elsewhere, whichever part that is.
ALL_AT_ONCE = "we?ird#x %41 ü'\"&mode=ro"


@pytest.mark.parametrize("name", ODD)
def test_a_store_and_its_views_stand_in_the_folder_that_was_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    recorder = open_recorder(folder / "events.db")
    recorder.datastore.close()
    log = EventStore.open(folder / "events.db")
    try:
        rebuild(log, folder / "views.db")
        assert Views(folder / "views.db").position().position == log.last_position() == 0
    finally:
        log.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"events.db", "views.db"} <= {path.name for path in folder.iterdir()}


def test_a_whole_system_works_in_a_folder_whose_name_has_every_odd_character(tmp_path: Path) -> None:
    settings = TENANTS + SHORT_WAITS + target("create_order", idempotency="once", ledger=LEDGER)
    with leadline(tmp_path / "house", settings=settings, data=ALL_AT_ONCE) as house:
        running = house.up()
        (house.folder / "messages.jsonl").write_bytes(b"\n".join(order(f"m-{n}", f"+{n}") for n in range(5)))
        assert "5 confirmed" in said(house, "publish", "messages.jsonl")
        house.wait_idle()
        live = view(house.data, "tasks")
        assert len(house.ask("tasks")) == len(live) >= 5
        house.ask("status")
        assert "rows are the same" in said(house, "rebuild", "--verify")
        said(house, "rebuild")
        assert view(house.data, "tasks") == live
        kept = count_events(house.data)
        assert f"{kept:,} events" in said(house, "backup", "copy?#%41")
        assert str(house.data.name) in said(house, "doctor")
        assert running.terminate() == 0
        assert "back in" in said(house, "restore", "--force", "copy?#%41")
        assert house.begin("up", "--nats-port", "0", "--http-port", "0", "--until-idle").ended() == 0
        assert len(ledger(house)) == 5, "what is recorded is known after a restart"
        assert view(house.data, "tasks") == live
        files = {path.name for path in house.folder.iterdir() if path.suffix not in (".out", ".err")}
        assert files == {"leadline.toml", "messages.jsonl", LEDGER, ALL_AT_ONCE, "copy?#%41"}


def said(house: Leadline, *words: str) -> str:
    """A command's output; it has succeeded."""
    answer = house.cli(*words)
    assert answer.code == 0, answer
    assert "Traceback" not in answer.err, answer
    return answer.out
