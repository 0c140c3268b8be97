"""`backup` and `restore`, over data folders without a runner: what is refused, checked, and left behind."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors import backup
from actors.ownership import DataFolderLock
from cli.app import app
from tests.support.cli_data import write_data
from tests.support.projections_story import LeadStory, Story


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", events_of(3))


def events_of(messages: int) -> list[Any]:
    story = Story()
    lead = LeadStory(story, "acme", "+49")
    for n in range(messages):
        lead.whole(f"m{n}")
    return story.recorded


def do(data: Path, *args: str) -> Any:
    return CliRunner().invoke(app, ["--data", str(data), *args])


def done(data: Path, *args: str) -> Any:
    answer = do(data, *args, "--json")
    assert answer.exit_code == 0, answer.stderr
    return json.loads(answer.stdout)


def rows(store: Path) -> list[Any]:
    with closing(sqlite3.connect(store)) as connection:
        return connection.execute("SELECT rowid, * FROM stored_events ORDER BY rowid").fetchall()


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_backup_holds_the_store_as_it_is_and_says_what_it_holds(data: Path, tmp_path: Path) -> None:
    made = done(data, "backup", str(tmp_path / "copy"))["backup"]
    assert rows(tmp_path / "copy" / "events.db") == rows(data / "events.db")
    assert made["events"] == len(rows(data / "events.db"))
    assert made["unreadable"] == []
    assert sorted(file.name for file in (tmp_path / "copy").iterdir()) == ["backup.json", "events.db"]


def test_a_folder_that_is_not_empty_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    refused = do(data, "backup", str(tmp_path))
    assert refused.exit_code == 2
    assert "not empty" in refused.stderr
    assert do(data, "backup", str(tmp_path / "other")).exit_code == 2


def test_without_a_store_there_is_nothing_to_back_up_and_nothing_is_left(tmp_path: Path) -> None:
    refused = do(tmp_path / "none", "backup", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert "there is no event store" in refused.stderr
    assert not (tmp_path / "copy").exists()


def test_an_event_that_cannot_be_read_is_named_and_does_not_hinder_the_backup(
    data: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(data / "events.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = x'00' WHERE rowid = 3")
    [complaint] = done(data, "backup", str(tmp_path / "copy"))["backup"]["unreadable"]
    assert complaint.startswith("event 3 (")


def test_a_store_that_is_damaged_is_not_backed_up_and_says_so(data: Path, tmp_path: Path) -> None:
    store = data / "events.db"
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    content = bytearray(store.read_bytes())
    content[8192:16384] = b"\xff" * 8192
    store.write_bytes(content)
    refused = do(data, "backup", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert refused.stderr.startswith("leadline: ")
    assert "details:" not in refused.stderr
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_store_with_events_missing_is_not_backed_up_and_nothing_is_left(data: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(data / "events.db")) as connection, connection:
        connection.execute("DELETE FROM stored_events WHERE rowid = 3")
    refused = do(data, "backup", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert "some are missing" in refused.stderr
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_store_whose_index_contradicts_it_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    """Each event can be read, and SQLite alone says that the file is damaged."""
    with closing(sqlite3.connect(data / "events.db")) as connection, connection:
        connection.execute("CREATE INDEX by_topic ON stored_events (topic)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '(topic)', '(state)') WHERE name = 'by_topic'"
        )
    refused = do(data, "backup", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert "damaged" in refused.stderr
    assert list((tmp_path / "copy").iterdir()) == []


def test_a_restore_into_a_new_folder_gives_the_same_events(data: Path, tmp_path: Path) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    said = done(tmp_path / "new", "restore", str(tmp_path / "copy"))
    assert said["set_aside"] is None
    assert any("read" in sentence and "stream" in sentence for sentence in said["follows"])
    assert rows(tmp_path / "new" / "events.db") == rows(data / "events.db")


def test_a_store_that_stands_there_is_kept_and_only_replaced_by_force(data: Path, tmp_path: Path) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    newer = write_data(tmp_path / "newer", events_of(5))
    before = rows(newer / "events.db")
    refused = do(newer, "restore", str(tmp_path / "copy"))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert rows(newer / "events.db") == before
    aside = done(newer, "restore", str(tmp_path / "copy"), "--force")["set_aside"]
    assert rows(Path(aside)) == before
    assert rows(newer / "events.db") == rows(data / "events.db")
    assert not (newer / "views.db").exists(), "the views knew what the store does not know any more"


def test_what_a_write_ahead_log_held_of_the_old_store_does_not_come_into_the_restored_one(
    data: Path, tmp_path: Path
) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    newer = write_data(tmp_path / "newer", events_of(3))
    with closing(sqlite3.connect(newer / "events.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("UPDATE stored_events SET state = 'changed' WHERE rowid = 1")
        log = (newer / "events.db-wal").read_bytes()
    (newer / "events.db-wal").write_bytes(log)  # as a killed runner leaves it
    done(newer, "restore", str(tmp_path / "copy"), "--force")
    assert rows(newer / "events.db") == rows(data / "events.db")


def test_a_restore_beside_a_runner_is_refused(data: Path, tmp_path: Path) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    lock = DataFolderLock(data)
    assert lock.acquire()
    try:
        refused = do(data, "restore", str(tmp_path / "copy"), "--force")
    finally:
        lock.release()
    assert refused.exit_code == 1
    assert "another Leadline works on this data folder" in refused.stderr


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda copy: (copy / "backup.json").unlink(), "no finished backup"),
        (lambda copy: (copy / "backup.json").write_text("{"), "cannot be read"),
        (lambda copy: (copy / "events.db").unlink(), "is missing"),
        (lambda copy: (copy / "events.db").write_bytes(b"x"), "checksum differs"),
        (lambda copy: flip_a_byte(copy / "events.db"), "checksum differs"),
    ],
)
def test_a_backup_that_is_not_whole_changes_nothing(
    data: Path, tmp_path: Path, spoil: Any, said: str
) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    spoil(tmp_path / "copy")
    before = rows(data / "events.db")
    refused = do(data, "restore", str(tmp_path / "copy"), "--force")
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert rows(data / "events.db") == before
    assert (data / "views.db").exists()


def test_a_backup_is_one_moment_however_busy_the_store_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", 1)
    before = rows(data / "events.db")
    written = 0

    def writes_meanwhile(what: str, _at: int, _last: int) -> None:
        nonlocal written
        if what != "copying" or written == 5:
            return
        written += 1
        with closing(sqlite3.connect(data / "events.db")) as writer, writer:
            writer.execute("INSERT INTO stored_events VALUES ('other', ?, 'x', x'00')", [written])

    made = backup.back_up(data / "events.db", tmp_path / "copy", writes_meanwhile)
    assert written == 5
    assert made.events == len(before)
    assert rows(tmp_path / "copy" / "events.db") == before


def test_of_a_damaged_store_the_write_ahead_log_is_kept_too(data: Path, tmp_path: Path) -> None:
    done(data, "backup", str(tmp_path / "copy"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "events.db").write_bytes(b"no database")
    (broken / "events.db-wal").write_bytes(b"its log")
    aside = Path(done(broken, "restore", str(tmp_path / "copy"), "--force")["set_aside"])
    assert aside.read_bytes() == b"no database"
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"its log"
    assert rows(broken / "events.db") == rows(data / "events.db")
