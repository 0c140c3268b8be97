"""A target that answers as it is told: for the demo, the benchmark, and tests of everything around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from domain.events import Idempotency
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, Outcome, Unknown
from domain.ports import TargetRequest


class ScriptedTarget:
    """Answers its calls by a script, in the order they come; keeps a ledger of the calls it took.

    `keyed` targets remember what they did: a repeated key is done again without a second effect.
    Any thread.
    """

    def __init__(
        self,
        idempotency: Idempotency,
        script: Sequence[str],
        *,
        cycle: bool = False,
        delay: float = 0.0,
        timeout: float = 10.0,
        ledger: Path | None = None,
    ) -> None:
        self.idempotency: Idempotency = idempotency
        self._script = tuple(script)
        self._cycle = cycle
        self._delay = delay
        self._timeout = timeout
        self._ledger = ledger
        self._lock = threading.Lock()
        self._calls = 0
        self._done: set[str] = set()

    def call(self, request: TargetRequest) -> Outcome:
        """Ends within the timeout, but for `hang`, which is what a target's own bug would do."""
        said, repeated = self._next(request)
        if self._delay:
            time.sleep(self._delay)
        outcome = Done() if repeated else self._outcome(said, request)
        self._note(request, said, outcome, repeated=repeated)
        return outcome

    def _next(self, request: TargetRequest) -> tuple[str, bool]:
        with self._lock:
            number = self._calls
            self._calls += 1
            if self.idempotency == "keyed" and request.key in self._done:
                return "done", True
            length = len(self._script)
            said = self._script[number % length if self._cycle else min(number, length - 1)]
            if said in ("done", "unknown"):
                self._done.add(request.key)
            return said, False

    def _outcome(self, said: str, request: TargetRequest) -> Outcome:
        match said:
            case "done":
                return Done({"id": f"{request.kind}-{request.key.rpartition('/')[0][-24:]}"})
            case "fail":
                return Failed("the target answered 500")
            case "throttle":
                return Failed("the target answered 429", retry_after_us=2_000_000, throttled=True)
            case "fail_for_good":
                return FailedForGood("the target answered 422")
            case "misconfigured":
                return Misconfigured("the target answered 401")
            case "switched_off":
                return Misconfigured("the target answered 410", switched_off=True)
            case "unknown":
                return Unknown("the connection was lost after the request was sent")
            case "hang":
                time.sleep(self._timeout * 10)
                return Unknown("no answer")
        raise RuntimeError(f"scripted to raise: {said}")

    def _note(self, request: TargetRequest, said: str, outcome: Outcome, *, repeated: bool) -> None:
        if self._ledger is None:
            return
        line = {
            "key": request.key,
            "kind": request.kind,
            "business_id": request.business_id,
            "lead_id": request.lead_id,
            "attempt": request.attempt,
            "said": said,
            "outcome": type(outcome).__name__,
            "repeated": repeated,
        }
        with self._lock, self._ledger.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
