"""Dead letters sent back to work by the dozen: a few first, at a rate, stopped where it goes wrong or by Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.nats import running_server
from tests.support.system_leadline import PATIENCE, SHORT_WAITS, Leadline, leadline
from tests.support.system_sql import Row, events, view
from tests.support.system_targets import target
from tests.support.system_wire import message

SIX_TIMES = ("fail_for_good",) * 6
SETTINGS = (
    """
[tenants.acme]
businesses = ["mended", "broken", "worse", "paced", "halted", "once"]
[breaker]
minimum_calls = 1000
"""
    + SHORT_WAITS
    + target("notify_sales", *SIX_TIMES, "done", business="mended")
    + target("notify_sales", "fail_for_good", business="broken")
    + target("notify_sales", "fail_for_good", business="worse")
    + target("notify_sales", "fail_for_good", "done", business="once")
    + target("notify_sales", *SIX_TIMES, "done", business="paced")
    + target("notify_sales", *SIX_TIMES, *SIX_TIMES, "done", business="halted")
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leadline]:
    folder = tmp_path_factory.mktemp("redrive")
    with (
        running_server(folder / "nats") as server,
        leadline(folder / "house", url=server.url, settings=SETTINGS) as made,
    ):
        made.run()
        yield made


def test_a_canary_that_comes_out_well_is_followed_by_the_others(house: Leadline) -> None:
    dead(house, "mended", 6)
    answer = retry(house, "--business", "mended", "--first", "2")
    assert answer.code == 0, answer
    assert outcomes(answer) == {"completed": 6}
    assert "6 dead letters of 6 leads" in answer.err
    assert {row["status"] for row in letters(house, "mended")} == {"resolved"}


def test_a_canary_that_fails_keeps_the_others_where_they_are(house: Leadline) -> None:
    dead(house, "broken", 6)
    answer = retry(house, "--business", "broken", "--first", "2")
    assert answer.code == 1
    assert outcomes(answer) == {"failed": 2, "not_tried": 4}
    assert "of the first 2 only 0 came out well" in answer.json["stopped"]
    assert "action_failed" in next(r["reason"] for r in answer.json["results"] if r["outcome"] == "failed")


def test_without_a_canary_it_stops_when_it_goes_wrong_again_and_again(house: Leadline) -> None:
    dead(house, "worse", 12)
    answer = retry(house, "--business", "worse", "--rate", "4", "--stop-after", "2")
    assert answer.code == 1
    assert "2 in a row went wrong" in answer.json["stopped"]
    assert outcomes(answer)["failed"] >= 2
    assert outcomes(answer)["not_tried"] > 0
    assert retried(house, "worse") == 12 - outcomes(answer)["not_tried"], "what is not tried was not sent"


def test_a_rate_is_kept(house: Leadline) -> None:
    dead(house, "paced", 6)
    began = time.monotonic()
    assert outcomes(retry(house, "--business", "paced", "--rate", "1")) == {"completed": 6}
    assert time.monotonic() - began > 5.0, "far longer than six of them take"


def test_ctrl_c_stops_it_and_says_what_was_done_and_what_not(house: Leadline) -> None:
    dead(house, "halted", 12)
    words = ("dlq", "retry", "--business", "halted", "--rate", "2", "--yes", "--json")
    running = house.begin(*words)
    eventually(lambda: retried(house, "halted") >= 2, within=PATIENCE)
    running.signal(signal.SIGINT)
    assert running.ended() == 1
    said = json.loads(running.out)
    counted = Counter(result["outcome"] for result in said["results"])
    assert said["stopped"] == "interrupted"
    assert counted["completed"] >= 1
    assert counted["not_tried"] >= 1
    assert counted["completed"] + counted["at_work"] == retried(house, "halted")
    assert "Traceback" not in running.err


def test_a_retry_that_is_refused_says_why_and_fails(house: Leadline) -> None:
    dead(house, "once", 1)
    [letter] = letters(house, "once")
    assert house.cli("dlq", "retry", letter["id"]).code == 0
    answer = house.cli("dlq", "retry", letter["id"])
    assert answer.code == 1
    assert "refused: this lead has no open dead letter with this id" in answer.err


def dead(house: Leadline, business: str, count: int) -> None:
    house.publish([message("m-1", f"+{n}", business) for n in range(count)])
    house.wait_idle()


def retry(house: Leadline, *words: str) -> Any:
    return house.cli("dlq", "retry", *words, "--yes", "--json")


def outcomes(answer: Any) -> dict[str, int]:
    return dict(Counter(result["outcome"] for result in answer.json["results"]))


def letters(house: Leadline, business: str) -> list[Row]:
    return [row for row in view(house.data, "dead_letter_queue") if row["business_id"] == business]


def retried(house: Leadline, business: str) -> int:
    return len(events(house.data, "dead_letter_retried.v1", f"lead:{business}:%"))


def test_without_a_runner_it_stops_at_the_first_and_says_what_is_in_the_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("nobody")
    with (
        running_server(folder / "nats") as server,
        leadline(folder / "house", url=server.url, settings=SETTINGS) as house,
    ):
        runner = house.run()
        dead(house, "broken", 3)
        assert runner.terminate() == 0
        answer = retry(house, "--all", "--timeout", "0.5")
        assert answer.code == 1
        assert "no answer within 0.5 s" in answer.json["stopped"]
        assert outcomes(answer) == {"at_work": 1, "not_tried": 2}
