from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from actors.nats_server import CONF, NatsServer, NatsServerError, find_binary, read_greeting
from tests.support.eventually import eventually
from tests.support.log import ensured
from tests.support.nats import running_server

PARENT = """
import sys, time
from pathlib import Path
from actors.nats_server import NatsServer
server = NatsServer(Path(sys.argv[1]))
server.start()
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ready_means_that_jetstream_answers_at_once(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "store")
    server.start()
    try:
        ensured(server.url)
        assert server.alive()
    finally:
        server.stop()
    assert not server.alive()


def test_its_settings_are_those_that_the_promises_need(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, quick=False) as server,
        urllib.request.urlopen(f"{server.monitor_url}/varz") as page,
    ):
        seen = json.loads(page.read())
    assert seen["jetstream"]["config"]["sync_always"] is True
    assert seen["max_payload"] == 2 * 1024 * 1024
    assert seen["host"] == seen["http_host"] == "127.0.0.1"


def test_each_line_of_its_settings_says_what_follows_from_it() -> None:
    lines = [line.strip() for line in CONF.read_text().splitlines()]
    for above, line in itertools.pairwise(lines):
        if line and not line.startswith(("#", "}", "jetstream")):
            assert above.startswith("#"), line


def test_it_dies_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    """H21."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(CONF.parent)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[0])
    assert not gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: gone(pid))


def test_a_ctrl_c_in_the_terminal_is_for_the_runner_alone(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)


def test_one_that_a_killed_runner_left_over_this_store_is_ended_and_its_port_taken_over(
    tmp_path: Path,
) -> None:
    """H21: also a stopped one, which does not listen to a polite signal."""
    left = NatsServer(tmp_path)
    left.start()
    os.kill(left.pid, signal.SIGSTOP)
    port = int(left.url.rsplit(":", 1)[1])
    server = NatsServer(tmp_path, port=port)
    server.start()
    try:
        assert server.pid != left.pid
        assert server.url == left.url
        assert not left.alive()
    finally:
        server.stop()


def test_a_pid_file_that_names_somebody_else_harms_nobody(tmp_path: Path) -> None:
    with running_server(tmp_path / "other") as other, subprocess.Popen(["sleep", "60"]) as bystander:
        for pid in (bystander.pid, other.pid):
            store = tmp_path / str(pid)
            store.mkdir()
            (store / "nats-server.pid").write_text(str(pid))
            server = NatsServer(store)
            server.start()
            server.stop()
            assert not gone(pid)
        bystander.kill()


def test_a_port_that_somebody_else_has_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(NatsServerError, match=f"port {port} on 127.0.0.1") as refused:
            NatsServer(tmp_path, port=port).start()
    assert "\n" not in str(refused.value)
    assert "--nats-port" in str(refused.value)


def test_a_port_that_is_just_being_left_is_waited_for(tmp_path: Path) -> None:
    """H21: the server of a runner that was killed this moment has lost its pid file, and is not gone yet."""
    leaving = socket.create_server(("127.0.0.1", 0))
    port = leaving.getsockname()[1]
    timer = threading.Timer(0.3, leaving.close)
    timer.start()
    server = NatsServer(tmp_path, port=port)
    server.start()
    server.stop()
    timer.join()


def test_a_start_that_fails_says_the_servers_own_reason(tmp_path: Path) -> None:
    conf = tmp_path / "broken.conf"
    conf.write_text("max_payload: {nonsense}\njetstream {")
    with pytest.raises(NatsServerError, match=r"ended at its start: .*Parse error on line 2"):
        NatsServer(tmp_path / "store", conf=conf).start()


def test_it_is_started_from_the_main_thread_only(tmp_path: Path) -> None:
    """The kernel ends a child with the thread that forked it."""
    errors: list[Exception] = []

    def start() -> None:
        try:
            NatsServer(tmp_path).start()
        except NatsServerError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_a_killed_server_starts_again_with_what_it_had_confirmed(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        created = ensured(server.url).created
        server.restart(kill=True)
        assert ensured(server.url).created == created


def test_nobody_there_greets_with_nothing() -> None:
    assert read_greeting("nats://127.0.0.1:1") is None
    assert Path(find_binary()).is_file()
