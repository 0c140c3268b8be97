"""A lead as the design's table and saga paragraph describe it, with what a person may say, and without events.

It shares nothing with `domain/` but words, keeps no history, and knows no keys: what is to be done next, what stands,
and how each message ended. A test compares it with the real lead after every step. An action has no target, one, or
several, which are done one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CALLS = 4
PUT_OFF = 20
WAIT_FOR_BREAKER = 15 * 60.0
#: What can be said of a step only where one is open.
_OPEN_ONLY = ("retry", "skip")

#: (intent, band) → its actions; a missing intent is nobody's.
_PLANS = {
    ("ORDER_REQUEST", "high"): ["create_order", "notify_sales"],
    ("ORDER_REQUEST", "medium"): ["notify_sales", "flag_for_review"],
    ("PRICING_INQUIRY", "high"): ["notify_sales"],
    ("PRICING_INQUIRY", "medium"): ["notify_sales"],
    ("COMPLAINT", "high"): ["create_support_ticket", "notify_sales"],
    ("COMPLAINT", "medium"): ["create_support_ticket", "flag_for_review"],
    ("SCHEDULE_CALL", "high"): ["notify_sales"],
    ("SCHEDULE_CALL", "medium"): ["notify_sales", "flag_for_review"],
    ("UNKNOWN", "high"): [],
    ("UNKNOWN", "medium"): ["flag_for_review"],
}


def plan_of(intent: str, confidence: float) -> list[str]:
    band = "high" if confidence >= 0.8 else "medium" if confidence >= 0.5 else "low"
    return _PLANS.get((intent, band), ["flag_for_review"])


@dataclass
class Message:
    """One message: what of its plan stands, and the call or wait that it is at."""

    name: str
    intent: str
    confidence: float
    #: An action and which of its targets; an action without any has one step too.
    plan: list[tuple[str, int]] = field(default_factory=list)
    begun: bool = False
    #: Places in the plan.
    done: list[int] = field(default_factory=list)
    undone: list[int] = field(default_factory=list)
    stuck: list[int] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    failed: str = ""
    unknown: int | None = None
    #: The call: place, whether it undoes, failures so far, "out" or what it waits for, and the last moment for it.
    at: int | None = None
    undo: bool = False
    failures: int = 0
    put_off: int = 0
    waits: str = ""
    deadline: float | None = None

    @property
    def comes_next(self) -> int:
        """The first place that is neither done nor left out; beyond the last one at the end."""
        return next((n for n in range(len(self.plan)) if n not in self.done + self.left_out), len(self.plan))

    @property
    def is_open(self) -> bool:
        """A person has to say what became of a step."""
        return self.unknown is not None or bool(self.stuck)

    def begin_again(self) -> None:
        fresh = Message(self.name, self.intent, self.confidence)
        self.__dict__.update(fresh.__dict__)


class Lead:
    """`now` is in seconds. Every method is one thing that can happen to the lead."""

    def __init__(self, classes: dict[str, str | tuple[str, ...]]) -> None:
        self.classes = {a: [c] if isinstance(c, str) else list(c) for a, c in classes.items()}
        self.queue: list[Message] = []
        self.letters: dict[str, tuple[Message, str]] = {}
        self.ended: dict[str, str] = {}
        self.known: set[str] = set()
        self.tasks: list[str] = []
        self.now = 0.0
        #: Why a call that needs a turn has none; "" where there is one.
        self.refused = ""

    # What happens.

    def receive(self, name: str, intent: str, confidence: float) -> None:
        if name not in self.known:
            self.known.add(name)
            self.queue.append(Message(name, intent, confidence))
            self._go_on()

    def done(self) -> None:
        head = self._at_call()
        self._stands(head) if not head.undo else self._is_undone(head)
        self._go_on()

    def failed(self, *, for_good: bool = False) -> None:
        """Proved not to have happened."""
        head = self._at_call()
        head.failures += 1
        again = head.undo or not (
            self.class_of(head) == "once" and head.plan[head.at or 0][0] == "create_order"
        )
        if for_good or head.failures >= CALLS or not again:
            self._gives_up(head, "action_failed")
        else:
            head.waits, head.deadline = "retry", None  # the breaker let this one through
        self._go_on()

    def throttled(self) -> None:
        """Proved not to have happened, and nobody's failure; but not for ever."""
        head = self._at_call()
        head.put_off += 1
        if head.put_off >= PUT_OFF:
            self._gives_up(head, "action_failed")
        else:
            head.waits, head.deadline = "retry", None
        self._go_on()

    def unknown(self) -> None:
        """It may have happened."""
        head = self._at_call()
        if self.class_of(head) != "once":
            self.failed()
            return
        self._nobody_knows(head)

    def held_back(self, reason: str) -> None:
        self._waits(self._at_call(), reason)
        self._go_on()

    def lost(self) -> None:
        """The process died during the call."""
        head = self._at_call()
        if self.class_of(head) == "once":
            self._nobody_knows(head)

    def waited(self) -> None:
        head = self.queue[0]
        assert head.waits not in {"", "out"}
        if head.deadline is not None and self.now >= head.deadline:
            self._gives_up(head, "breaker_open")
        else:
            self._begins(head)
        self._go_on()

    def retry(self, name: str) -> bool:
        """False where it is refused."""
        message, _ = self.letters.get(name, (None, ""))
        if message is None or message.is_open:
            return False
        del self.letters[name]
        message.begin_again()
        self.queue.append(message)
        self._go_on()
        return True

    def discard(self, name: str) -> bool:
        return self.letters.pop(name, None) is not None

    def resolve(self, name: str, said: str | None) -> bool:
        """False where it is refused. What each word means stands in a table of `docs/operating.md`."""
        message, _ = self.letters.get(name, (None, ""))
        if message is None or (
            message.is_open if said is None else not message.is_open and said in _OPEN_ONLY
        ):
            return False
        if message.unknown is not None:
            self._settle_unknown(message, said or "")
        else:
            self._settle_stuck(message, said or "done")
        self._go_on()
        return True

    def _settle_unknown(self, message: Message, said: str) -> None:
        place, message.unknown, message.failed = message.unknown or 0, None, ""
        if said == "undone":
            message.failed = "action_failed"
            if message.done:
                self._works_again(message)
            return
        if said == "done":
            message.at = place
            self._stands(message)
            if message.comes_next == len(message.plan):
                self._is_completed(message)
                return
        elif said == "skip":
            action, _ = message.plan[place]
            message.left_out += [n for n in range(place, len(message.plan)) if message.plan[n][0] == action]
        self._works_again(message)

    def _settle_stuck(self, message: Message, said: str) -> None:
        """Compensations failed, or nothing is open."""
        if said == "done":
            self._is_completed(message)
        elif said == "skip":
            del self.letters[message.name]
        elif said == "undone":
            for place in message.stuck:
                message.at = place
                self._is_undone(message)
            message.stuck = []
        else:
            message.stuck, message.failed = [], "action_failed"
            self._works_again(message)

    def _works_again(self, message: Message) -> None:
        del self.letters[message.name]
        self.queue.append(message)

    def _is_completed(self, message: Message) -> None:
        del self.letters[message.name]
        self.ended[message.name] = "completed"

    # What follows.

    def class_of(self, head: Message) -> str:
        """The idempotency class of the target that its call is for."""
        assert head.at is not None
        action, part = head.plan[head.at]
        return self.classes[action][part]

    def _go_on(self) -> None:
        while self.queue:
            head = self.queue[0]
            if not head.begun:
                actions = plan_of(head.intent, head.confidence)
                head.plan = [(a, part) for a in actions for part in range(len(self.classes.get(a, ["none"])))]
                head.begun = True
            if head.at is not None:
                return
            if head.failed:
                left = [n for n in reversed(head.done) if n not in head.undone + head.stuck]
                if not left:
                    self._dies(head)
                    continue
                head.at, head.undo = left[0], True
            elif head.comes_next == len(head.plan):
                self.queue.pop(0)
                self.ended[head.name] = "completed"
                continue
            else:
                head.at, head.undo = head.comes_next, False
            head.failures, head.put_off, head.deadline = 0, 0, None
            if head.plan[head.at][0] in self.classes:
                self._begins(head)
            elif head.undo:
                self._is_undone(head)
            else:
                self._stands(head)

    def _begins(self, head: Message) -> None:
        """The call goes out, or waits for its turn where it needs one."""
        if self.refused and self.class_of(head) == "once":
            self._waits(head, self.refused)
        else:
            head.waits = "out"

    def _waits(self, head: Message, reason: str) -> None:
        head.waits = reason
        if reason != "breaker":
            head.deadline = None
        elif head.deadline is None:
            head.deadline = self.now + WAIT_FOR_BREAKER

    def _at_call(self) -> Message:
        head = self.queue[0]
        assert head.waits == "out"
        return head

    def _stands(self, head: Message) -> None:
        assert head.at is not None
        head.done.append(head.at)
        action, part = head.plan[head.at]
        if part + 1 == len(self.classes.get(action, ["none"])):
            self.tasks.append(f"{head.name} {action}")
        head.at, head.waits = None, ""

    def _is_undone(self, head: Message) -> None:
        assert head.at is not None
        head.undone.append(head.at)
        action, _ = head.plan[head.at]
        stands = [n for n in head.done if n not in head.undone and head.plan[n][0] == action]
        if not stands and f"{head.name} {action}" in self.tasks:
            self.tasks.remove(f"{head.name} {action}")
        head.at, head.waits = None, ""

    def _gives_up(self, head: Message, why: str) -> None:
        assert head.at is not None
        if head.undo:
            head.stuck.append(head.at)
        else:
            head.failed = why
        head.at, head.waits = None, ""

    def _nobody_knows(self, head: Message) -> None:
        if head.undo:
            self._gives_up(head, "")
        else:
            head.unknown, head.failed = head.at, "outcome_unknown"
            head.at, head.waits = None, ""
            self._dies(head)
        self._go_on()

    def _dies(self, head: Message) -> None:
        self.queue.pop(0)
        category = "compensation_failed" if head.stuck else head.failed
        self.letters[head.name] = (head, category)
        self.ended[head.name] = category
