"""The delivery chain of a subscription: what the bus declares for all, then its own filters, then the handler."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from pipebus.delivery.binding import VALUES, misreturned
from pipebus.errors import Rejected, SubjectChanged
from pipebus.foreign.objects import attributes, is_a
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED, Handled
from pipebus.pipeline import blame, compose, contract, routes
from pipebus.pipeline.compose import Build, Node
from pipebus.pipeline.step import Step

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

_came_for: Final[contextvars.ContextVar[Any]] = contextvars.ContextVar("pipebus.subject")
"""The subject of the message that is passing a delivery chain which serves several: a filter may not change it."""


def _remembering(run: compose.Next, colour: str) -> compose.Next:
    def remember(message: Message[Any]) -> Any:
        token = _came_for.set(message.subject)
        try:
            return run(message)
        finally:
            _came_for.reset(token)

    async def aremember(message: Message[Any]) -> Any:
        token = _came_for.set(message.subject)
        try:
            return await run(message)
        finally:
            _came_for.reset(token)

    return remember if colour == "sync" else aremember


def compile_for(sub: Any, bus_nodes: tuple[Node, ...]) -> None:
    """Build the chain around the handler: what the bus declares for all, then its own."""
    plan, bound = sub.plan, sub.plan.bound
    if bound is None:
        bus_nodes = transforms_only(bus_nodes)
    elif sub.answers:
        bus_nodes = ()  # replies pass publish filters only
    if not bus_nodes and not plan.nodes and (bound is None or plan.hub.services.watch is None):
        sub.run = None
        return
    around = (*routes.steps(bus_nodes), *routes.steps(plan.nodes))
    plan.awaits = plan.run_on == "loop" and not any(step.colour == "sync" or step.traits.bounds for step in around)
    build = Build(
        side="delivery",
        colour="async" if bound is not None and (bound.is_async or plan.awaits) else "sync",
        subject=sub.subjects,
        terminal=_terminal(sub),
        services=plan.hub.services,
        rule=plan.hub.rule,
        place=sub.name,
    )
    run = compose.compile(bus_nodes, replace(build, terminal=compose.compile(plan.nodes, build)))
    sub.run = run if sub.literal is not None else _remembering(run, build.colour)
    if any(step.traits.sees_delivery for step in around):
        plan.quick = False


def _terminal(sub: Any) -> compose.Next:
    bound, literal, awaits = sub.plan.bound, sub.literal, sub.plan.awaits

    def check(message: Message[Any]) -> Message[Any]:
        # A delivery chain may hand on nothing but a message, and none with another subject.
        if message.__class__ is not Message:
            raise contract.handed_on(message)
        message = contract.checked(message)
        subject = literal if literal is not None else _came_for.get(message.subject)
        if message.subject is not subject and message.subject != subject:
            raise SubjectChanged(subject, message.subject)
        return message

    if bound is None:
        read = sub.plan.read
        return lambda message: read(check(message))
    step, call = blame.StepId(bound.name, end=True), sub.call()  # signs the handler's errors: no filter is blamed for them
    if (watch := sub.plan.hub.services.watch) is not None:
        call = watch(step, "async" if bound.is_async else "sync", call, (sub.name, bound.name))

    def handle(message: Message[Any]) -> Handled:
        message = check(message)
        try:
            value = call(message)
            if value is not None and (wrong := misreturned(bound.name, value, has_taker(sub.plan, message))) is not None:
                raise wrong
        except BaseException as error:
            say_who_refused(error, sub.name)
            blame.blame(error, step, message)
            raise
        return HANDLED if value is None else Handled(value)

    async def ahandle(message: Message[Any]) -> Handled:
        message = check(message)
        try:
            value = await call(message) if bound.is_async else call(message)
            if value is not None:
                value = await awaited(bound.name, value, has_taker(sub.plan, message))
        except BaseException as error:
            say_who_refused(error, sub.name)
            blame.blame(error, step, message)
            raise
        return HANDLED if value is None else Handled(value)

    return ahandle if bound.is_async or awaits else handle


def has_taker(plan: Any, message: Message[Any]) -> bool:
    """Whether the value that the handler returns is published, or is a reply."""
    return plan.to is not None or message.reply_to is not None


async def awaited(name: str, value: Any, taken: bool) -> Any:
    """What the handler of that name has returned on a loop; of an awaitable, its result."""
    if type(value) in VALUES:
        return value
    if issubclass(type(value), Awaitable):
        value = await value
    wrong = misreturned(name, value, taken)
    if wrong is not None:
        raise wrong
    return value


def say_who_refused(error: BaseException, name: str) -> None:
    """Fill in `Rejected.by`, unless the code that raised it has."""
    if is_a(error, Rejected):
        facts = attributes(error)
        facts["by"] = facts.get("by") or name


def transforms_only(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The bus-wide delivery filters that apply to readers: Transforms, in the same forks and pipelines."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Step):
            if node.shape == "transform":
                kept.append(node)
        else:
            kept.append(node.of(transforms_only(node.nodes)))
    return tuple(kept)
