"""The detector of stuck work: it tells where everything stands, once nothing moves, and not before."""

from __future__ import annotations

from pathlib import Path

from tests.support.eventually import eventually
from tests.support.system_targets import target
from tests.support.system_wire import message
from tests.verify import world
from tests.verify.stuck import StuckDetector
from tests.verify.workload import BUSINESSES

SETTINGS = '[tenants.acme]\nbusinesses = ["acme-foods"]\n' + target(
    "notify_sales", "hang", timeout_seconds=600
)


def test_work_that_does_not_move_is_told_with_its_leads_state_and_the_threads_stacks(tmp_path: Path) -> None:
    with world.made(tmp_path, 1, SETTINGS, BUSINESSES) as made:
        assert made.start()
        made.house.publish([message("m-1", "+1"), message("m-2", "+1")])
        detector = StuckDetector(made, quiet=1.0)
        try:
            eventually(lambda: bool(detector.dumps), within=30)
        finally:
            detector.stop()
    said = detector.dumps[0].read_text()
    assert "nothing has moved" in said
    assert "acme-foods/+1 m-1: outcome of notify_sales" in said
    assert "lead:acme-foods:=2B1 at version " in said
    assert "2 in its queue" in said
    assert "'state': 'started'" in said
    assert "leadline_calls_in_flight 1.0" in said
    assert "scripted.py" in said.partition("last words")[2], "a thread's stack names the target's code"


def test_a_leadline_at_rest_is_not_stuck(tmp_path: Path) -> None:
    settings = '[tenants.acme]\nbusinesses = ["acme-foods"]\n'
    with world.made(tmp_path, 1, settings, BUSINESSES) as made:
        assert made.start()
        made.house.publish([message("m-1", "+1")])
        made.house.wait_idle()
        detector = StuckDetector(made, quiet=0.2)
        made.pause(2.0)  # four looks
        detector.stop()
    assert not detector.dumps
