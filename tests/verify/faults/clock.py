"""The wall clock jumps forward and back by an hour."""

from __future__ import annotations

from tests.verify.faults.group import Act, Fault, Group, Scene


def jump(seconds: float) -> Act:
    def act(scene: Scene) -> None:
        world = scene.world
        before = world.clock
        world.progress(world.dice.randint(1, 60))
        world.ask(clock=before + seconds)
        world.did("clock jumps")
        world.pause(world.dice.uniform(0.5, 2.0))
        if world.dice.random() < 0.5:
            world.ask(clock=before)
            world.did("clock jumps")
        world.still_runs()

    return act


GROUP = Group(
    "clock",
    "jumps forward and back by an hour",
    (Fault("forward", jump(3600.0)), Fault("back", jump(-3600.0))),
)
