"""The HTTP targets of a round: servers of a process of their own, which go wrong by chance and keep a ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@contextmanager
def target_servers(folder: Path, seed: int, share: float) -> Iterator[Mapping[str, str]]:
    """Name → url. `share` of the requests goes wrong, before the deed or after it. Ledgers stand in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "webhook.secret").write_text(SECRET)
    command = [sys.executable, "-m", "tests.support.target_servers", "--ledger", str(folder)]
    process = subprocess.Popen(
        [*command, "--seed", str(seed), "--share", str(share), "--secret", SECRET],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(10)
