"""The store: a full disk, another writer, writes that fail, a flipped byte, views that are damaged or gone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.system_sql import execute, query
from tests.verify.faults.group import Act, Fault, Group, Scene
from tests.verify.world import World, patiently

#: How long views may take to say that they have stopped.
SAID_WITHIN = 30.0
#: How long views may take to go on once there is room.
GOES_ON_WITHIN = 60.0


def disk_full(scene: Scene) -> None:
    """No page more than a few, for a while: appends wait, and nothing is lost or refused."""
    world = scene.world
    world.ask(pages_left=world.dice.randint(0, 4))
    world.pause(world.dice.uniform(1, 4))
    world.ask()
    world.did("full disks")
    world.still_runs()


def views_full(scene: Scene) -> None:
    """No room for the views and the outbox: said, seen as a lag, and over by itself once there is room."""
    world = scene.world
    said = world.errors().count("the views are held up")
    world.ask(views_pages_left=world.dice.randint(0, 4))

    def is_said() -> bool:
        scene.publisher.put(scene.workload.some(5))
        return world.errors().count("the views are held up") > said

    if not patiently(is_said, SAID_WITHIN, every=0.2):
        world.violates("the views have no room, and nobody says so")
    world.pause(world.dice.uniform(0.5, 3))
    last = _last_position(world)
    if _views_position(world) >= last:
        world.violates("the views have no room, and are not behind")
    world.still_runs()
    world.ask()
    if not patiently(lambda: _views_position(world) >= last, GOES_ON_WITHIN):
        world.violates(f"there is room again, and the views stay behind: {world.last_words()}")
    world.did("disks full for views and outbox")
    world.still_runs()


def locked(name: str) -> Act:
    def act(scene: Scene) -> None:
        """Another program holds the database for writing, longer than a writer waits for it."""
        world = scene.world
        world.progress(world.dice.randint(1, 60))
        with closing(sqlite3.connect(world.data / name, timeout=20, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            world.pause(world.dice.choice((0.5, 2.0, 7.0)))
            connection.execute("ROLLBACK")
        world.did("databases locked by another writer")
        world.still_runs()

    return act


def failing_writes(scene: Scene) -> None:
    """Once or a few times; before the write is done, or after, when nobody can know that it was."""
    world = scene.world
    for when in ("before", "after"):
        world.ask(failing_writes=world.dice.randint(1, 3), fail=when)
        world.progress(world.dice.randint(20, 80))
        world.did(f"writes that failed {when} they were done")
    world.ask()
    world.still_runs()


def flipped_byte(scene: Scene) -> None:
    """An event that cannot be read stops the views where it can be seen, and at most its own lead; mended, all
    goes on."""
    world = scene.world
    world.progress(20)
    world.kill()
    flipped = flip(world)
    if flipped is None:
        world.restart()
        return
    position, whole, place = flipped
    remove_views(world.data)
    world.start()
    world.did("flipped bytes")
    before = _last_position(world)
    scene.publisher.put(scene.workload.some(30))
    if not patiently(lambda: place in _stopped_error(world), SAID_WITHIN):
        world.violates(f"{place} cannot be read, and the views say {_stopped_error(world)!r}")
    if not patiently(lambda: _last_position(world) > before, SAID_WITHIN):
        world.violates(f"{place} cannot be read, and nothing else is recorded any more")
    if not world.alive():
        world.violates(f"{place} cannot be read, and the runner ended: {world.last_words()}")
    world.kill()
    execute(world.data / "events.db", "UPDATE stored_events SET state = ? WHERE rowid = ?", (whole, position))
    world.restart()


def damaged_views(scene: Scene) -> None:
    world = scene.world
    world.kill()
    remove_views(world.data, but=("views.db",))
    views = world.data / "views.db"
    if views.exists():
        with views.open("r+b") as file:
            file.write(world.dice.randbytes(100))
    world.did("views damaged")
    world.restart()


def views_gone(scene: Scene) -> None:
    """Removed beneath a living projector."""
    world = scene.world
    remove_views(world.data)
    world.did("views removed")
    world.pause(1.0)
    world.still_runs()


def remove_views(data: Path, but: tuple[str, ...] = ()) -> None:
    for file in data.glob("views.db*"):
        if file.name not in but:
            file.unlink(missing_ok=True)


def flip(world: World) -> tuple[int, bytes, str] | None:
    """A byte of a random lead's random event: its position, what was there, and how an error names it."""
    rows = query(
        world.data / "events.db",
        "SELECT rowid, originator_id, originator_version, state FROM stored_events"
        " WHERE originator_id LIKE 'lead:%' ORDER BY rowid",
    )
    if not rows:
        return None
    row = world.dice.choice(rows)
    whole = bytes(row["state"])
    broken = bytes([whole[0] ^ 0x40]) + whole[1:]
    execute(
        world.data / "events.db", "UPDATE stored_events SET state = ? WHERE rowid = ?", (broken, row["rowid"])
    )
    return row["rowid"], whole, f"version {row['originator_version']} of {row['originator_id']}"


def _stopped_error(world: World) -> str:
    try:
        rows = query(world.data / "views.db", "SELECT stopped_error FROM views_meta")
    except sqlite3.Error:
        return ""
    return str(rows[0]["stopped_error"]) if rows else ""


def _views_position(world: World) -> int:
    """Of the views as they stand, or as they stood before they were removed."""
    try:
        rows = query(world.data / "views.db", "SELECT position FROM views_meta")
    except sqlite3.Error:
        return 0
    return int(rows[0]["position"]) if rows else 0


def _last_position(world: World) -> int:
    return int(query(world.data / "events.db", "SELECT MAX(rowid) AS last FROM stored_events")[0]["last"])


GROUP = Group(
    "store",
    "disk full, locked by another writer, writes that fail, a flipped byte, views damaged or gone",
    (
        Fault("disk full", disk_full),
        Fault("views full", views_full),
        Fault("events locked", locked("events.db")),
        Fault("views locked", locked("views.db")),
        Fault("failing writes", failing_writes),
        Fault("flipped byte", flipped_byte),
        Fault("damaged views", damaged_views),
        Fault("views gone", views_gone),
    ),
)
