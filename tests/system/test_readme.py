"""README's ten minutes, command by command, on a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import nats

from tests.support.docs import ROOT, blocks
from tests.support.eventually import eventually


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tour(folder: Path, port: int) -> tuple[str, dict[str, str]]:
    """README's commands as one script, in a folder with the files that they name."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "leadline"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/runner.py" "$@"\n')
    command.chmod(0o755)
    for name in ("leadline.toml", "examples"):
        (folder / name).symlink_to(ROOT / name)
    env = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "LEADLINE_NATS__PORT": str(port),
        "LEADLINE_NATS__URL": f"nats://127.0.0.1:{port}",
        "LEADLINE_HTTP_PORT": "0",
    }
    return blocks("README.md", "sh")[1], env


async def publish(port: int) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    body = "\n".join(f"    {line}" for line in blocks("README.md", "python")[0].splitlines())
    scope: dict[str, Any] = {}
    exec(f"async def go(client):\n{body}\n", scope)
    await scope["go"](client)
    await client.close()


def test_readmes_commands_do_what_it_says(tmp_path: Path) -> None:
    port = free_port()
    script, env = tour(tmp_path, port)
    up, *commands = [line.partition("#")[0].strip() for line in script.splitlines() if line.strip()]
    assert up == "leadline up &"
    server = subprocess.Popen(["leadline", "up"], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    out = server.stdout
    assert out is not None
    try:
        eventually(lambda: _is_ready(out.readline()), within=60)
        said = {command: _run(command, tmp_path, env) for command in commands}
        asyncio.run(publish(port))
        _run("leadline status --wait-idle", tmp_path, env)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        out.close()
    assert "confidence" in said["leadline dlq"]
    assert "Three bags of flour" in said["leadline lead acme-foods +4915112345678"]
    assert json.loads(said["leadline metrics --json"])
    with sqlite3.connect(tmp_path / "data" / "views.db") as views:
        rows = views.execute(blocks("README.md", "sql")[0]).fetchall()
    views.close()
    assert ("acme-foods", "order_processing", 1) in rows
    assert ("acme-foods", "sales_notification", 2) in rows  # the order's, and the published one's


def _is_ready(line: str) -> None:
    assert line.startswith("ready")


def _run(command: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
