"""The command line as its users have it: processes, with their output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "leadline.toml"


class Process:
    """A running `leadline up` or `run`."""

    def __init__(self, *args: str, cwd: Path) -> None:
        self.output = cwd / f"leadline-{time.monotonic_ns()}.log"
        self._file = self.output.open("wb")
        self.popen = subprocess.Popen(
            command_line(*args),
            cwd=cwd,
            env=environment(),
            stdout=self._file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def said(self, word: str, within: float = 30.0) -> str:
        """The rest of the first line that begins with `word`. Fails with all the output if there is none."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            for line in self.text().splitlines():
                if line.startswith(word):
                    return line.removeprefix(word).strip()
            if self.popen.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"never said {word!r}:\n{self.text()}")

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def end(self, number: int = signal.SIGTERM, within: float = 30.0) -> int:
        """Send a signal; the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(within)

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._file.close()


@contextmanager
def running(*args: str, cwd: Path) -> Iterator[Process]:
    """A process that is ready, killed at the end if it has not ended."""
    process = Process(*args, cwd=cwd)
    try:
        process.said("ready")
        yield process
    finally:
        process.close()


def leadline(
    *args: str, cwd: Path, given: str = "", within: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """A command run to its end."""
    return subprocess.run(
        command_line(*args),
        cwd=cwd,
        env=environment(),
        input=given,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def answered(*args: str, cwd: Path) -> Any:
    """The JSON document of a question that was answered."""
    done = leadline(*args, "--json", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def command_line(*args: str) -> list[str]:
    return [sys.executable, str(ROOT / "runner.py"), *args]


def environment() -> dict[str, str]:
    """Without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LEADLINE_")} | {
        "LEADLINE_CONFIG": str(CONFIG)
    }


def nats_servers_over(folder: Path) -> list[str]:
    """Command lines of the NATS servers that still work over a folder's store."""
    listed = subprocess.run(["ps", "-eww", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if "nats-server" in line and str(folder) in line]
