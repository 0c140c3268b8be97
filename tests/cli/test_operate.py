"""`up`, `run` and what people do beside them, as processes over a real server."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from tests.support.cli_process import (
    CONFIG,
    Process,
    answered,
    command_line,
    leadline,
    nats_servers_over,
    running,
)
from tests.support.eventually import eventually
from tests.support.nats import running_server

MESSAGES = [
    {"message_id": "m1", "lead_id": "+49 1", "intent": "COMPLAINT", "confidence": 0.9, "text": "broken"},
    {"message_id": "m2", "lead_id": "+49 1", "intent": "UNKNOWN", "confidence": 0.9, "text": "thanks"},
    {"message_id": "m3", "lead_id": "+49 2", "intent": "PRICING_INQUIRY", "confidence": 7},
]
LINES = "".join(json.dumps({"business_id": "acme-foods"} | message) + "\n" for message in MESSAGES)
UP = ("up", "--data", "data", "--nats-port", "0", "--http-port", "0")


class Here:
    """A running `leadline up`, and the questions asked of it."""

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.url = process.said("nats")

    def do(self, *args: str, given: str = "") -> tuple[int, str, str]:
        common = ("--data", str(self.folder / "data"), "--nats", self.url, "--config", str(CONFIG))
        done = CliRunner().invoke(app, [*args, *common], input=given)
        return done.exit_code, done.stdout, done.stderr

    def ask(self, *args: str) -> Any:
        code, said, wrong = self.do(*args, "--json")
        assert (code, wrong) == (0, "")
        return json.loads(said)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """Three messages, published and handled."""
    folder = tmp_path_factory.mktemp("here")
    with running(*UP, cwd=folder) as process:
        up = Here(process, folder)
        assert up.do("publish", "-", given=LINES)[:2] == (
            0, "3 confirmed, 0 duplicates (JetStream has them already), 0 refused\n"
        )  # fmt: skip
        code, said, wrong = up.do("status", "--wait-idle", "--timeout", "30")
        assert code == 0, said + wrong
        yield up


def test_what_was_published_is_idle_as_tasks_and_dead_letters(here: Here) -> None:
    tasks = here.ask("tasks", "--lead", "+49 1")
    assert sorted(task["task_type"] for task in tasks) == ["sales_notification", "support_ticket"]
    [letter] = here.ask("dlq", "--category", "rejected", "--lead", "+49 2")
    assert "confidence" in letter["error_message"]


def test_status_is_one_json_document_that_says_what_waits_for_a_person(here: Here) -> None:
    status = here.ask("status")
    assert (status["idle"], status["open"], len(status["log"]["partitions"])) == (True, [], 16)


def test_the_metrics_are_served_where_up_says(here: Here) -> None:
    with urllib.request.urlopen(here.process.said("metrics"), timeout=10) as answer:
        text = answer.read().decode()
    assert re.search(r'^whatsapp_messages_received_total\{business="acme-foods"\} 2', text, re.MULTILINE)


def test_a_task_is_worked_by_commands_and_a_repeated_one_is_answered_from_the_record(here: Here) -> None:
    [task] = [row for row in here.ask("tasks") if row["task_type"] == "support_ticket"]
    name = task["task_id"]
    assert here.do("task", "start", name, "--by", "anna")[:2] == (0, f"{name}: done\n")
    assert here.do("task", "reassign", name, "--to", "user:anna")[0] == 0
    for _ in range(2):
        assert here.do("task", "complete", name, "--command-id", "c-1", "--why", "mended")[:2] == (
            0,
            f"{name}: done\n",
        )
    code, _, wrong = here.do("task", "start", name)
    assert code == 1
    assert "refused: this lead has no open task with this id" in wrong

    def completed_by_anna() -> bool:
        [row] = [row for row in here.ask("tasks") if row["task_id"] == name]
        return bool((row["status"], row["assigned_to_id"]) == ("completed", "anna"))

    eventually(completed_by_anna)
    assert "completed by" in here.do("lead", "acme-foods", "+49 1")[1]


def test_a_rejected_message_is_amended_and_redriven(here: Here) -> None:
    here.do("publish", "-", given=LINES.splitlines()[2].replace("m3", "m4").replace("+49 2", "+49 3"))
    here.do("status", "--wait-idle")
    [letter] = here.ask("dlq", "--lead", "+49 3")
    code, _, wrong = here.do("dlq", "retry", letter["id"])
    assert (code, "still cannot be taken" in wrong) == (1, True)
    good = letter["original_payload"].replace(": 7", ": 0.7")
    amend = ("dlq", "amend", letter["id"], "--payload", "-", "--why", "a slip of the AI")
    code, _, wrong = here.do(*amend, given=good.replace("acme-foods", "nobodys"))
    assert (code, "it still cannot be taken: unknown business" in wrong) == (1, True)
    code, said, _ = here.do(*amend, given=good)
    assert code == 0
    assert f"payload - {letter['original_payload']}" in said
    assert f"payload + {good}" in said
    assert here.do("dlq", "retry", letter["id"])[0] == 0
    assert here.do("status", "--wait-idle")[0] == 0
    assert [row["status"] for row in here.ask("dlq", "--lead", "+49 3")] == ["resolved"]
    assert len(here.ask("tasks", "--lead", "+49 3")) == 1


def test_a_command_to_what_is_not_there_is_wrong_in_one_line(here: Here) -> None:
    for command, told in (
        (("dlq", "retry", "nope"), "there is no dead letter nope"),
        (("task", "complete", "nope"), "there is no task nope"),
        (("lead", "resume", "acme-foods", "+49 1"), "this lead is not stopped"),
    ):
        code, said, wrong = here.do(*command)
        assert (code, said, wrong.count("\n")) == (1, "", 1)
        assert told in wrong


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("task", "reassign", "x", "--to", "nobody"), "say team:NAME, role:NAME or user:NAME"),
        (("dlq", "resolve", "x", "--as", "maybe"), "say done, undone, retry or skip"),
        (("dlq", "amend", "x"), "nothing is changed"),
        (("dlq", "amend", "x", "--set", "text=a"), "say --why"),
        (("dlq", "amend", "x", "--set", "confidence"), "say FIELD=VALUE"),
        (("dlq", "amend", "x", "--set", "confidence=high"), "confidence takes JSON"),
        (("dlq", "retry", "x", "y", "--command-id", "c"), "--command-id names one command"),
    ],
)
def test_a_command_that_makes_no_sense_is_wrong_use(here: Here, command: tuple[str, ...], told: str) -> None:
    code, _, wrong = here.do(*command)
    assert (code, told in wrong) == (2, True), wrong


def test_a_rebuild_beside_the_runner_finds_nothing_to_differ(here: Here) -> None:
    code, said, _ = here.do("rebuild", "--verify")
    assert (code, "are the same as rebuilt" in said) == (0, True)


def test_the_doctor_finds_nothing_to_mend(here: Here) -> None:
    findings = here.ask("doctor")
    assert {finding["state"] for finding in findings} == {"good"}
    assert any("on disk before it is confirmed" in finding["found"] for finding in findings)


def test_a_data_folder_has_one_owner(here: Here) -> None:
    for command in (UP, ("run", "--data", "data", "--http-port", "0")):
        refused = leadline(*command, cwd=here.folder)
        assert refused.returncode == 1
        assert "another Leadline works on this data folder" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_port_in_use_is_said(here: Here) -> None:
    port = here.url.rsplit(":", 1)[1]
    refused = leadline("up", "--data", "other", "--nats-port", port, cwd=here.folder)
    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_and_leaves_nothing_running(tmp_path: Path, number: int) -> None:
    with running(*UP, cwd=tmp_path) as process:
        assert process.end(number) == 0
        assert "Traceback" not in process.text()
    assert nats_servers_over(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 0.0), (signal.SIGINT, 0.7), (signal.SIGTERM, 0.3)]
)
def test_a_signal_to_all_of_its_processes_ends_them_in_order(
    tmp_path: Path, number: int, after: float
) -> None:
    """As a terminal sends Ctrl-C, and a service manager its end: also to those that have just been started."""
    with running(*UP, cwd=tmp_path) as process:
        time.sleep(after)
        os.killpg(process.popen.pid, number)
        assert process.popen.wait(30) == 0
        assert "Traceback" not in process.text()
        assert "stopping drains" in process.text()
    assert nats_servers_over(tmp_path) == []


def test_a_kill_leaves_nothing_running_and_the_next_start_goes_on(tmp_path: Path) -> None:
    with running(*UP, cwd=tmp_path) as process:
        url = process.said("nats")
        leadline("publish", "-", "--nats", url, cwd=tmp_path, given=LINES)
        process.end(signal.SIGKILL)
    eventually(lambda: nats_servers_over(tmp_path) == [])
    ended = leadline(*UP, "--until-idle", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(answered("tasks", "--data", "data", cwd=tmp_path)) == 2


def test_run_works_against_a_server_that_is_there_and_ends_when_idle(tmp_path: Path) -> None:
    with running_server(tmp_path / "nats") as server:
        common = ("--data", "data", "--nats", server.url)
        assert leadline("publish", "-", *common, cwd=tmp_path, given=LINES).returncode == 0
        ended = leadline("run", "--until-idle", "--http-port", "0", *common, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert "idle     nothing is left to do" in ended.stdout
        assert len(answered("tasks", *common, cwd=tmp_path)) == 2


def test_waiting_for_idle_in_vain_says_what_is_open(tmp_path: Path) -> None:
    with running_server(tmp_path / "nats") as server:
        common = ("--data", "data", "--nats", server.url)
        leadline("run", "--until-idle", "--http-port", "0", *common, cwd=tmp_path)
        leadline("publish", "-", *common, cwd=tmp_path, given=LINES)
        waited = leadline("status", "--wait-idle", "--timeout", "0.5", *common, cwd=tmp_path)
        assert waited.returncode == 1
        assert "not idle after 0.5 s: 2 partitions are not read to their end" in waited.stderr
        task = answered("tasks", *common, cwd=tmp_path)
        assert task == []


def test_a_command_that_nobody_answers_says_what_that_means(tmp_path: Path) -> None:
    with running_server(tmp_path / "nats") as server:
        common = ("--data", "data", "--nats", server.url)
        asked = leadline("lead", "resume", "acme-foods", "x", "--timeout", "0.2", *common, cwd=tmp_path)
        assert asked.returncode == 1
        assert re.search(r"no answer within 0.2 s: command \S+ is in the log", asked.stderr)


def test_status_without_anything_at_work_says_what_would_be(tmp_path: Path) -> None:
    with running_server(tmp_path / "nats") as server:
        common = ("--data", "data", "--nats", server.url)
        leadline("run", "--until-idle", "--http-port", "0", *common, cwd=tmp_path)
    asked = leadline("status", *common, cwd=tmp_path)
    assert asked.returncode == 1
    assert "no runner works on data either: `leadline up` starts both" in asked.stderr
    assert asked.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("run",), ("publish", "-"), ("status",), ("lead", "resume", "a", "b")])
def test_no_server_is_one_clear_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    refused = leadline(*command, "--nats", "nats://127.0.0.1:9", "--data", "data", cwd=tmp_path, given=LINES)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    said = [
        line for line in refused.stderr.splitlines() if not line.startswith("{")
    ]  # what is logged is beside it
    assert len(said) == 1, refused.stderr


def test_the_doctor_says_what_to_mend_where_nothing_is(tmp_path: Path) -> None:
    told = leadline("doctor", "--nats", "nats://127.0.0.1:9", "--data", "data", cwd=tmp_path)
    assert told.returncode == 1
    assert "no NATS server answers" in told.stdout
    assert "leadline up" in told.stdout


def test_the_doctor_names_the_server_that_up_has_started_on_another_port(here: Here) -> None:
    told = leadline("doctor", "--nats", "nats://127.0.0.1:9", "--data", "data", cwd=here.folder)
    assert f"`up` over this data folder has one at {here.url}: name it with --nats" in told.stdout


@pytest.mark.parametrize("words", [("publish", "-"), ("run",)])
def test_without_a_server_it_is_said_what_to_do(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = leadline(*words, "--nats", "nats://127.0.0.1:9", "--data", "data", cwd=tmp_path, given=LINES)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()  # nor is it news that a new folder has no views
    assert "no NATS server can be used at nats://127.0.0.1:9" in line
    assert line.endswith("; start one with `leadline up`, or name another with --nats")


def test_settings_without_a_business_are_told_when_it_starts(tmp_path: Path) -> None:
    (tmp_path / "own.toml").touch()
    done = leadline(*UP, "--config", "own.toml", "--until-idle", cwd=tmp_path)
    assert done.returncode == 0
    assert "no business is in the settings: every message will be a dead letter" in done.stderr


def test_the_doctor_notices_a_server_that_confirms_before_it_syncs(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", quick=True) as server:
        told = leadline("doctor", "--nats", server.url, "--data", "data", cwd=tmp_path)
    assert told.returncode == 1
    assert "set `sync_interval: always`" in told.stdout
    assert "LEADS is not there yet" in told.stdout


def test_the_doctor_asks_the_monitoring_where_the_settings_say_that_it_is(tmp_path: Path) -> None:
    with running_server(tmp_path / "elsewhere", quick=True) as server:
        words = ("doctor", "--nats", server.url, "--data", "data", "--config", "own.toml")
        own = tmp_path / "own.toml"
        own.write_text("[tenants.acme]\nbusinesses = ['acme-foods']\n")
        assert "or say where it is (nats.monitoring)" in leadline(*words, cwd=tmp_path).stdout
        own.write_text(f"{own.read_text()}[nats]\nmonitoring = '{server.monitor_url}/'\n")
        assert "set `sync_interval: always`" in leadline(*words, cwd=tmp_path).stdout


def test_a_server_that_dies_ends_up_with_the_reason(tmp_path: Path) -> None:
    with running(*UP, cwd=tmp_path) as process:
        [pid_file] = (tmp_path / "data" / "jetstream").glob("nats-server.pid")
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        assert process.popen.wait(30) == 1
        assert (
            "nats-server has ended by itself; everything confirmed is safe, start `leadline up` again"
            in process.text()
        )
        assert "Traceback" not in process.text()


def test_a_projector_that_is_killed_ends_up_with_the_signal_that_did_it(tmp_path: Path) -> None:
    with running(*UP, cwd=tmp_path) as process:
        listed = subprocess.run(
            ["pgrep", "-P", str(process.popen.pid), "-f", "spawn_main"], capture_output=True, check=True
        )
        os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
        assert process.popen.wait(30) == 1
        assert "died: its process was ended by SIGKILL; everything recorded is safe" in process.text()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with running(*UP, cwd=tmp_path) as process:
        process.popen.send_signal(signal.SIGSTOP)
        process.popen.send_signal(signal.SIGTERM)
        process.popen.send_signal(signal.SIGINT)
        process.popen.send_signal(signal.SIGCONT)
        assert process.popen.wait(30) == 1
    eventually(lambda: nats_servers_over(tmp_path) == [])


def test_a_piped_answer_whose_reader_has_gone_is_no_error(tmp_path: Path) -> None:
    quoted = " ".join(shlex.quote(word) for word in command_line("--help"))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {quoted} | true"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stderr == ""
