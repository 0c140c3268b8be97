"""The runner killed, ended, stopped for seconds: at random moments, and at named points of its work."""

from __future__ import annotations

import signal

from tests.verify.faults.group import Act, Fault, Group, Scene
from tests.verify.inside import POINTS
from tests.verify.world import PATIENCE, World

#: How long a named point may take to be reached; a runner that does not come there is killed anyway.
REACHED_WITHIN = 6.0


def kill(scene: Scene) -> None:
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    world.kill()
    world.restart()


def kill_at_its_start(scene: Scene) -> None:
    """Killed, and killed again while it starts."""
    world = scene.world
    world.progress(world.dice.randint(1, 50))
    world.kill()
    world.running = world.house.begin("run", "--http-port", "0")
    world.pause(world.dice.uniform(0.3, 2.0))
    world.kill()
    world.restart()


def terminate(scene: Scene) -> None:
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    world.terminate()
    world.did("SIGTERM of the runner")
    world.restart()


def terminate_twice(scene: Scene) -> None:
    """A second signal ends it at once."""
    world = scene.world
    world.progress(world.dice.randint(1, 100))
    world.signal(signal.SIGTERM)
    world.pause(world.dice.uniform(0, 0.1))
    if world.alive():
        world.signal(signal.SIGTERM)
    if not world.await_end(10):
        world.violates("a second SIGTERM did not end the runner")
    world.did("two SIGTERM of the runner")
    world.restart()


def stop(scene: Scene) -> None:
    """SIGSTOP for seconds, with the projector or without it."""
    world = scene.world
    group = world.dice.random() < 0.5
    world.progress(world.dice.randint(1, 100))
    world.signal(signal.SIGSTOP, group=group)
    world.pause(world.dice.choice((0.5, 2.0, 7.0)))
    world.signal(signal.SIGCONT, group=group)
    world.did("SIGSTOP of the runner")
    world.pause(0.2)
    world.still_runs()


def second_runner(scene: Scene) -> None:
    """Another one on the same folder: refused in a line, while the first goes on as if nothing were."""
    world = scene.world
    world.progress(world.dice.randint(1, 100))
    second = world.house.begin("run", "--http-port", "0")
    code = second.ended(PATIENCE)
    if (
        code != 1
        or "another Leadline works on this data folder" not in second.err
        or "Traceback" in second.err
    ):
        world.violates(f"a second runner on the folder ended with {code}: {second.err[-1000:]}")
    world.did("second runners refused")
    world.still_runs()


def rolling_restart(scene: Scene) -> None:
    """SIGTERM to the one, and another at once: it waits for the folder, and takes over."""
    world = scene.world
    world.progress(world.dice.randint(1, 150))
    first = world.running
    assert first is not None
    first.signal(signal.SIGTERM)
    scene.publisher.put(scene.workload.some(20))
    if not world.start():
        world.violates(f"a runner that was started while another drained ended: {world.last_words()}")
    if first.ended(PATIENCE) != 0:
        world.violates(
            f"a runner that another waited for ended with {first.process.returncode}: {first.err[-1000:]}"
        )
    world.did("rolling restarts")
    world.still_runs()


def kill_at(point: str) -> Act:
    def act(scene: Scene) -> None:
        world = scene.world
        if "rebuild" in point:
            _without_views(world)
            world.ask(point=point)
            world.start()
        elif "wakes" in point or "recovery" in point:
            world.kill()
            world.ask(point=point, passing=1 if "recovery" in point else world.dice.randint(1, 40))
            world.start()
        else:
            world.ask(point=point, passing=1 if "drain" in point else world.dice.randint(1, 30))
        if "drain" in point:
            world.signal(signal.SIGTERM)
        if world.await_end(REACHED_WITHIN):
            world.did(f"killed {point}")
        else:
            world.kill()
        world.ask()
        world.restart()

    return act


def _without_views(world: World) -> None:
    world.kill()
    for file in world.data.glob("views.db*"):
        file.unlink()


GROUP = Group(
    "runner",
    "SIGKILL, SIGTERM, SIGSTOP: at random, and at named points",
    (
        Fault("kill", kill),
        Fault("kill at its start", kill_at_its_start),
        Fault("terminate", terminate),
        Fault("terminate twice", terminate_twice),
        Fault("stop", stop),
        Fault("second runner", second_runner),
        Fault("rolling restart", rolling_restart),
        *(Fault(f"kill {point}", kill_at(point)) for point in POINTS),
    ),
)
