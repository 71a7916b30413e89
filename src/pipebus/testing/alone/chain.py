"""The chain of a filter under test, compiled for each subject as a bus would compile it."""

from __future__ import annotations

from typing import Any, Final, Literal

from pipebus.bus.bus import Bus, engine_of
from pipebus.errors import SubjectError
from pipebus.message.patterns import Pattern
from pipebus.message.subject import Address, check_subject
from pipebus.pipeline import compose
from pipebus.pipeline.compose import Build, Rest, Side
from pipebus.testing.alone.script import Script

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

ANY: Final = Pattern(">")


class Chain:
    """
    The filters, with a script at the end.

    Args:
        bus: The bus whose services the filters get.
    """

    def __init__(self, nodes: Any, at: Side, colour: Literal["sync", "async"], script: Script, bus: Bus) -> None:
        self._nodes = nodes
        self._at = at
        self._colour: Literal["sync", "async"] = colour
        self._script = script
        self._bus = bus
        self._entries: dict[Any, compose.Next] = {}

    def entry(self, subject: Any) -> compose.Next:
        """The chain for a subject. In delivery it is the same for all subjects, as in a subscription."""
        key = subject if self._at == "publish" else ANY
        return self._entries.get(key) or self._compile(key, None, self._entries)

    def _compile(self, subject: Any, rest: Rest | None, known: dict[Any, compose.Next]) -> compose.Next:
        """Build the chain; or, after a filter that has changed the subject, the rest of the chain."""
        if isinstance(subject, str):
            check_subject(subject)
        elif not isinstance(subject, (Address, Pattern)):
            raise SubjectError(f"{subject!r} is not a subject; use a string, an actor or Ref(obj)")
        terminal = self._script.sync if self._colour == "sync" else self._script.asynchronous
        build = Build(
            side=self._at,
            colour=self._colour,
            subject=subject,
            terminal=terminal(subject if self._at == "publish" else None),
            services=engine_of(self._bus).services,
            recompile=self._compile,
            rule=engine_of(self._bus).rule,
            place="publish" if self._at == "publish" else "test",
        )
        link = compose.compile(self._nodes, build) if rest is None else compose.resume(rest, build)
        known[subject] = link
        return link
