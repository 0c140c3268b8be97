"""Leadline as its users have it: processes over one folder, asked and told through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from actors import publisher
from cli import status
from settings import load
from tests.support.eventually import eventually

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120.0

TENANTS = """
[tenants.acme]
businesses = ["acme-foods", "acme-deli"]
[tenants.globex]
businesses = ["globex-bank"]
"""

#: Waits that a test would otherwise have to sit out.
SHORT_WAITS = """
[retry]
delays_seconds = [0.05, 0.1, 0.15]
"""


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[str]:
        """What was said to a person on stderr, a line each."""
        # What a runner logs stands on stderr as well, a JSON document a line.
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("{")]


def assert_one_line(answer: Answer, code: int, *parts: str) -> None:
    """It has failed with this code, and said in one line why."""
    assert answer.code == code, answer
    [line] = answer.lines()
    assert line.startswith("leadline: ")
    assert "details:" not in line, line
    for part in parts:
        assert part in line, line


class Running:
    """`up` or `run` as a process."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self._err.read_text(errors="replace")

    def said(self, name: str) -> str:
        """What stands behind a name at the beginning of a line, such as `metrics`."""
        return next((line.split()[1] for line in self.out.splitlines() if line.startswith(f"{name} ")), "")

    def ready(self) -> Running:
        """Returns when it says so. AssertionError with its words if it ends instead."""

        def is_ready() -> bool:
            if self.process.poll() is not None and not self.said("ready"):
                raise RuntimeError(f"ended with {self.process.returncode}: {self.out}{self.err}")
            return bool(self.said("ready"))

        eventually(is_ready, within=PATIENCE)
        return self

    def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """SIGKILL, to it and to what it started in its own process group."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


class Leadline:
    """One folder: its settings, its data, and every process that a test starts over it."""

    def __init__(self, folder: Path, *, url: str = "", settings: str = TENANTS, data: str = "data") -> None:
        self.folder = folder
        self.data = folder / data
        self.url = url
        self._started: list[Running] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.set(settings)

    def set(self, settings: str) -> None:
        """These settings from the next process on."""
        (self.folder / "leadline.toml").write_text(settings)

    def cli(self, *words: str, stdin: bytes = b"", timeout: float = PATIENCE) -> Answer:
        """A command, ended."""
        done = subprocess.run(
            self._command(words),
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=clean_environment(self.folder),
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ask(self, *words: str) -> Any:
        """What a question answers with `--json`. It must succeed."""
        answer = self.cli(*words, "--json")
        assert answer.code == 0, answer
        return answer.json

    def begin(self, *words: str) -> Running:
        """A command that is left to run."""
        number = len(self._started)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                self._command(words),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                cwd=self.folder,
                env=clean_environment(self.folder),
                start_new_session=True,
            )
        self._started.append(Running(process, out, err))
        return self._started[-1]

    def run(self, *words: str) -> Running:
        """`leadline run`, ready."""
        return self.begin("run", "--http-port", "0", *words).ready()

    def up(self, *words: str) -> Running:
        """`leadline up`, ready; from now on its NATS is the one that is asked."""
        running = self.begin("up", "--nats-port", "0", "--http-port", "0", *words).ready()
        self.url = running.said("nats")
        return running

    def publish(self, lines: Sequence[bytes]) -> None:
        """What `leadline publish` does, without a process of its own: every line confirmed."""
        report = publisher.publish(lines, self.url)
        assert not report.refused, report

    def wait_idle(self, timeout: float = PATIENCE) -> None:
        """What `leadline status --wait-idle` does, without a process of its own."""
        overrides = {"data": str(self.data), "nats.url": self.url}
        settings = load(self.folder / "leadline.toml", env={}, overrides=overrides)
        seen = status.wait_until_idle(settings, timeout)
        assert not seen.open, f"{seen.open}\n{self._started[-1].err[-4000:] if self._started else ''}"

    def end_all(self) -> None:
        for running in self._started:
            running.kill()

    def _command(self, words: Sequence[str]) -> list[str]:
        common = ["--data", self.data.name, *(["--nats", self.url] if self.url else [])]
        return [sys.executable, str(ROOT / "runner.py"), *common, *words]


@contextmanager
def leadline(
    folder: Path, *, url: str = "", settings: str = TENANTS, data: str = "data"
) -> Iterator[Leadline]:
    """A Leadline whose processes are ended at the end, however that comes."""
    house = Leadline(folder, url=url, settings=settings, data=data)
    try:
        yield house
    finally:
        house.end_all()


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment without its own settings of Leadline; modules of the folder can be imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEADLINE_")}
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "NO_COLOR": "1"}
