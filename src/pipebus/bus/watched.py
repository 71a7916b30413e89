"""
A chain that is watched: notes about each filter that one message passes, with the message before and after it, and why it ended
there if it did. `pipebus trace` watches the chain of a bus that is not real, `dry_run` a copy of the chain of one that is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pipebus.bus.explain import describe_subscription
from pipebus.delivery.chain import transforms_only
from pipebus.delivery.subscription import Subscription
from pipebus.errors import Rejected, reason_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.compose import Build, Next, Node, Rest
from pipebus.pipeline.routes import steps
from pipebus.pipeline.step import Step

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


@dataclass(eq=False)
class Note:
    """
    One pass of a message through one filter.

    Attributes:
        step: The filter, as it was registered.
        before: The message that it got.
        after: The message that it passed on first; None: it passed none on.
        took: Seconds until then, or until its end.
        why: Why it dropped, refused or failed; or why it was not run.
    """

    step: Step
    before: Message[Any]
    why: str | None = None
    after: Message[Any] | None = None
    took: float = 0.0
    begun: float = field(default_factory=time.perf_counter)
    inner: object = None  # what the rest of the chain returned or raised last

    def passes_on(self, message: object) -> None:
        if self.after is None and type(message) is Message:
            self.after, self.took = message, time.perf_counter() - self.begun

    def ends(self, found: object) -> None:
        """The filter returned an outcome, or raised an error."""
        if self.after is None:
            self.took = time.perf_counter() - self.begun
        if found is self.inner:  # it comes from further in
            return
        if isinstance(found, Dropped):
            self.why = found.reason
        elif isinstance(found, Rejected):
            self.why = "; ".join(found.reasons)
        elif isinstance(found, BaseException):
            self.why = reason_of(found)


class Watched(Node):
    """
    A step, with a watch around it.

    Args:
        step: As it was registered.
        runs: What runs in its place.
        notes: Gets a note for each pass.
        why: Why something else runs in its place, if so.
    """

    __slots__ = ("name", "nodes", "notes", "place", "runs", "step", "why")

    def __init__(self, step: Step, runs: Step, notes: list[Note], why: str | None = None) -> None:
        self.step, self.runs, self.notes, self.why = step, runs, notes, why
        self.name, self.place, self.nodes = step.name, step.place, (runs,)

    def link(self, next_: Next, build: Build) -> Next:
        open: list[Note] = []  # the passes that have not ended; a filter further out may run this one again
        around, rest = (self._around, _rest) if build.colour == "sync" else (self._aaround, _arest)
        recompile = build.recompile

        def recompiled(subject: object, after: Rest | None, known: dict[object, Next]) -> Next:
            """After a rerouter the rest is another one."""
            link = known[subject] = rest(recompile(subject, after, {}), open)  # type: ignore[misc]
            return link

        if recompile is not None:
            build = replace(build, recompile=recompiled)
        return around(self.runs.link(rest(next_, open), build), open)

    def _begin(self, message: Message[Any], open: list[Note]) -> Note:
        note = Note(self.step, message, self.why)
        self.notes.append(note)
        open.append(note)
        return note

    def _around(self, run: Next, open: list[Note]) -> Next:
        def link(message: Message[Any]) -> Any:
            note = self._begin(message, open)
            try:
                found = run(message)
            except BaseException as error:
                note.ends(error)
                raise
            finally:
                open.pop()
            note.ends(found)
            return found

        return link

    def _aaround(self, run: Next, open: list[Note]) -> Next:
        async def link(message: Message[Any]) -> Any:
            note = self._begin(message, open)
            try:
                found = await run(message)
            except BaseException as error:
                note.ends(error)
                raise
            finally:
                open.pop()
            note.ends(found)
            return found

        return link


def _rest(next_: Next, open: list[Note]) -> Next:
    """What follows a watched filter; it notes what the filter passes on, and what comes back."""

    def link(message: Message[Any]) -> Any:
        note = open[-1]
        note.passes_on(message)
        try:
            note.inner = next_(message)
        except BaseException as error:
            note.inner = error
            raise
        return note.inner

    return link


def _arest(next_: Next, open: list[Note]) -> Next:
    async def link(message: Message[Any]) -> Any:
        note = open[-1]
        note.passes_on(message)
        try:
            note.inner = await next_(message)
        except BaseException as error:
            note.inner = error
            raise
        return note.inner

    return link


def watched(nodes: tuple[Node, ...], notes: list[Note]) -> tuple[Node, ...]:
    """The same chain, with a watch around each filter."""
    return tuple(
        Watched(node, node, notes) if isinstance(node, Step) else node.of(watched(node.nodes, notes)) for node in nodes
    )


def way(one: Subscription, delivery: tuple[Node, ...]) -> dict[str, Any]:
    """
    What would follow for one subscription: the filters around its handler, and the handler.

    Args:
        delivery: The chain that the bus has around all handlers.
    """
    found = describe_subscription(one)
    chain = (*(delivery if one.handled else transforms_only(delivery)), *one.plan.nodes)
    return {
        "subscription": found["name"],
        "on": found["subjects"],
        "filters": [step.name for step in steps(chain)],
        "handler": found["handler"],
    }
