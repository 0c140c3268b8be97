"""From an action's call to its target's answer: the executor's words, the target's port, and a span."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from actors.executors.executor import Executor
from domain.messages import clean
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Outcome, Unknown
from domain.ports import ActionCall, Target, TargetRequest

_tracer = trace.get_tracer("leadline")
_propagator = TraceContextTextMapPropagator()


def performer(executor: Executor, target: Target) -> Callable[[ActionCall], Outcome]:
    """What a worker runs: one attempt of one action, as a span of the message's trace.

    Without a tracer provider when it is made, there is nobody to see a span, and none is begun.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return lambda call: answer_of(target.call(request_of(executor, call)))

    def perform(call: ActionCall) -> Outcome:
        context = _propagator.extract({"traceparent": call.trace}) if call.trace else None
        name = f"{call.action}.undo" if call.undo else call.action
        about: dict[str, str | int] = {
            "leadline.target": call.target,
            "leadline.attempt": call.attempt,
            "leadline.idempotency_key": call.key,
        }
        with _tracer.start_as_current_span(name, context=context, attributes=about) as span:
            outcome = answer_of(target.call(request_of(executor, call)))
            span.set_attribute("leadline.outcome", type(outcome).__name__)
            return outcome

    return perform


def answer_of(answer: object) -> Outcome:
    """What a target's code gave back, as the port has it: events are made of it, and must be readable for ever.

    What is no outcome may have happened. Raises `msgspec.ValidationError` for one with a field of a wrong type.
    """
    match answer:
        case Done(remote):
            return Done({clean(str(name)): clean(str(value)) for name, value in remote.items()})
        case Failed() | FailedForGood() | Misconfigured() | Unknown():
            return msgspec.convert(msgspec.to_builtins(answer), type(answer))
        case NotCalled(wait):  # a breaker's word: from a target it is an attempt that failed
            return Failed("the target made no call", retry_after_us=wait)
    return Unknown(f"the target's answer is no outcome but {type(answer).__name__}")


def request_of(executor: Executor, call: ActionCall) -> TargetRequest:
    """The request of an attempt: the same for every attempt but for its number."""
    fields = executor.undo_fields if call.undo else executor.fields
    return TargetRequest(
        call.key,
        executor.undo_kind if call.undo else executor.kind,
        call.message.business_id,
        call.message.lead_id,
        fields(call),
        call.remote,
        call.attempt,
        call.undo,
        executor.spec.title_of(call.message),
        call.received,
    )
