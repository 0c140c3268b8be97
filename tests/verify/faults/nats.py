"""NATS killed, stopped, slow, cut off."""

from __future__ import annotations

from tests.verify.faults.group import Fault, Group, Scene


def kill(scene: Scene) -> None:
    """SIGKILL, away for a while, and started again on its port."""
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    world.server.kill()
    world.pause(world.dice.choice((0.0, 0.5, 3.0)))
    world.server.start()
    world.did("SIGKILL of NATS")
    world.still_runs()


def kill_both(scene: Scene) -> None:
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    world.server.kill()
    world.kill()
    world.server.start()
    world.did("SIGKILL of NATS")
    world.restart()


def stop(scene: Scene) -> None:
    """SIGSTOP: connections stay open, and nobody answers."""
    world = scene.world
    world.progress(world.dice.randint(1, 100))
    world.server.pause()
    world.pause(world.dice.choice((0.5, 2.0, 7.0)))
    world.server.resume()
    world.did("SIGSTOP of NATS")
    world.still_runs()


def cut(scene: Scene) -> None:
    """The runner's connection, a few times, and in the middle of what comes."""
    world = scene.world
    for _ in range(world.dice.randint(1, 4)):
        world.progress(world.dice.randint(1, 60), within=0.5)
        world.proxy.cut()
        world.did("connections cut")
    world.proxy.cut_every(world.dice.randint(2_000, 60_000))
    world.pause(1.5)
    world.proxy.cut_every(None)
    world.did("connections cut after so many bytes")
    world.still_runs()


def slow(scene: Scene) -> None:
    world = scene.world
    world.proxy.delay = world.dice.choice((0.005, 0.05))
    world.pause(world.dice.uniform(1, 4))
    world.proxy.delay = 0.0
    world.did("slow links")
    world.still_runs()


GROUP = Group(
    "nats",
    "SIGKILL and restart, SIGSTOP, slow link, connection cut",
    (
        Fault("kill", kill),
        Fault("kill both", kill_both),
        Fault("stop", stop),
        Fault("cut", cut),
        Fault("slow", slow),
    ),
)
