"""Every answer that a target can give; which targets there are, and what they answer, is in the settings."""

from __future__ import annotations

from tests.verify.conditions import well
from tests.verify.faults.group import Fault, Group, Scene
from tests.verify.target_process import WELL


def start_anew(scene: Scene) -> None:
    """What was switched off (410) is probed at a start, and nowhere else."""
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    world.terminate()
    world.did("starts that probe what is switched off")
    world.restart()


def end(scene: Scene) -> None:
    """Somebody has mended them: they answer well from now on, and the next start reads it."""
    world = scene.world
    (world.house.folder / WELL).touch()
    settings = world.house.folder / "leadline.toml"
    world.house.set(well(settings.read_text()))
    if world.alive():
        world.terminate()
    world.restart()


GROUP = Group(
    "targets",
    "every answer of the targets' tables: failures, throttling, refused logins, lost answers, hanging, raising",
    (Fault("start anew", start_anew),),
    end=end,
)
