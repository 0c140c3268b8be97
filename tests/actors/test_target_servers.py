"""The servers that targets are tested against, as processes of their own: for tests that kill what calls them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import target_settings as ts
from domain.outcomes import Done
from target_wiring import make_target
from tests.support.docs import ROOT
from tests.support.target_kinds import message_id, request_of


@contextmanager
def served(module: str, *words: str) -> Iterator[Any]:
    """What a server's process says when it is ready."""
    command = [sys.executable, "-m", f"tests.support.{module}", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_a_server_that_fails_a_part_of_its_calls_does_each_key_once_and_writes_it_down(
    tmp_path: Path,
) -> None:
    with served("target_servers", "--ledger", str(tmp_path), "--share", "0.4", "--seed", "3") as urls:
        target: Any = make_target(
            ts.Rest(url=f"{urls['orders']}/orders", body={}, idempotency="keyed", timeout_seconds=5)
        )
        tries = 0
        for n in range(30):
            while not isinstance(target.call(request_of(f"k{n}")), Done):
                tries += 1
        target._target._http.close()
    lines = [
        json.loads(line) for line in (tmp_path / "orders.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    effects = Counter(line["key"] for line in lines if not line["repeated"])
    assert tries > 3
    assert len(effects) == 30
    assert set(effects.values()) == {1}


def test_a_mail_server_of_its_own_takes_mail_and_writes_it_down(tmp_path: Path) -> None:
    ca, ledger, password = tmp_path / "ca.pem", tmp_path / "mails.jsonl", tmp_path / "password"
    password.write_text("right", encoding="utf-8")
    with served("mail_server", "--ca-file", str(ca), "--ledger", str(ledger)) as said:
        target = make_target(
            ts.Email(
                host="localhost",
                port=said["port"],
                user="leadline",
                password=ts.Secret(file=str(password)),
                sender="leadline@acme.example",
                to=("sales@acme.example",),
                ca_file=str(ca),
            )
        )
        assert isinstance(target.call(request_of()), Done)
    assert json.loads(ledger.read_text(encoding="utf-8"))["Message-ID"] == message_id()
