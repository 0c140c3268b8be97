"""From an action's call to its target's answer: the executor's words, the target's port, and a span."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from actors.executors.executor import Executor
from domain.outcomes import Outcome
from domain.ports import ActionCall, Target, TargetRequest

_tracer = trace.get_tracer("leadline")
_propagator = TraceContextTextMapPropagator()


def performer(executor: Executor, target: Target) -> Callable[[ActionCall], Outcome]:
    """What a worker runs: one attempt of one action, as a span of the message's trace."""

    def perform(call: ActionCall) -> Outcome:
        context = _propagator.extract({"traceparent": call.trace}) if call.trace else None
        name = f"{call.action}.undo" if call.undo else call.action
        with _tracer.start_as_current_span(name, context=context):
            return target.call(request_of(executor, call))

    return perform


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
    )
