"""
Where messages go, in words of low cardinality.

A subscription to a pattern has that pattern as its template. An address that is made for one conversation, such as that of a
reply, is temporary and anonymous, and its name, which may be a secret, is left out; so is that of an actor or a `Ref`, which
has none. Of other subjects the first thousand are names; what comes after these is in spans, but not in their names or metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from pipebus.delivery.subscription import Subscription
from pipebus.foreign.objects import class_name
from pipebus.message.patterns import Pattern
from pipebus.message.subject import REPLY, Ref
from pipebus.telemetry import names

MOST: Final = 1_000
"""How many subjects are names, and how many subscriptions without one are remembered."""

INBOX: Final = "_INBOX."
"""What the addresses for replies to the clients of NATS begin with."""


class Destination(NamedTuple):
    """
    Args:
        label: The end of a span's name; empty if nothing of low cardinality is known.
        span, metric: The attributes.
    """

    label: str
    span: Mapping[str, Any]
    metric: Mapping[str, Any]


REPLIES: Final = Destination(
    "(reply)",
    {names.DESTINATION_TEMPLATE: "(reply)", names.DESTINATION_TEMPORARY: True, names.DESTINATION_ANONYMOUS: True},
    {names.DESTINATION_TEMPLATE: "(reply)"},
)


class _Taker(NamedTuple):
    """
    A subscription: its patterns with wildcards, its group, and whether it has no handler. Not the subscription itself: a
    stopped actor must not be kept alive.
    """

    patterns: tuple[Pattern, ...]
    group: Mapping[str, Any]
    reads: bool


class Destinations:
    """
    Args:
        named: Returns the subscription of a name.
        listeners: Returns the subscriptions that a subject reaches in this process.
        owns: Whether an address is one of the bus's own for replies.
    """

    def __init__(
        self, named: Callable[[str], Subscription | None], listeners: Callable[[Any], list[Subscription]],
        owns: Callable[[Any], bool],
    ) -> None:  # fmt: skip
        self._named = named
        self._listeners = listeners
        self._owns = owns
        self._names: set[str] = set()
        self._known: dict[str, _Taker] = {}

    def sent(self, subject: Any) -> Destination:
        """Where a publish goes. Ask once for each route, as its subscriptions do not change."""
        special = self._special(subject)
        if special is not None:
            return special
        reached = [pattern for one in self._listeners(subject) for pattern in one.patterns]
        if subject in reached:
            return self._literal(subject)
        found = next((one for one in reached if isinstance(one, Pattern) and one.matches(subject)), None)
        return self._literal(subject) if found is None else _under(found, subject)

    def taken(self, name: str, subject: Any) -> Destination:
        """Where a message of a subscription came from."""
        taker, found = self._taker(name, subject), self._special(subject)
        if found is None:
            pattern = next((one for one in taker.patterns if one.matches(subject)), None)
            found = self._literal(subject) if pattern is None else _under(pattern, subject)
        group = taker.group
        return found if not group else Destination(found.label, {**found.span, **group}, {**found.metric, **group})

    def plain(self, subject: Any) -> Mapping[str, Any]:
        """What the spans of filters say about a subject, with no look at who listens."""
        special = self._special(subject)
        return {names.DESTINATION_NAME: subject} if special is None else special.span

    def reads(self, name: str, subject: Any) -> bool:
        """Whether the subscription of that name has no handler."""
        return self._taker(name, subject).reads

    def _special(self, subject: Any) -> Destination | None:
        if not isinstance(subject, str):
            if self._owns(subject):
                return REPLIES
            what = f"({class_name(subject.object if isinstance(subject, Ref) else subject)})"
            template = {names.DESTINATION_TEMPLATE: what}
            return Destination(what, {**template, names.DESTINATION_ANONYMOUS: True}, template)
        return REPLIES if subject.startswith((REPLY, INBOX)) else None

    def _literal(self, subject: str) -> Destination:
        where = {names.DESTINATION_NAME: subject}
        if subject not in self._names:
            if len(self._names) >= MOST:
                return Destination("", where, {})
            self._names.add(subject)
        return Destination(subject, where, where)

    def _taker(self, name: str, subject: Any) -> _Taker:
        """`subject`: of one of its messages. A subscription without a name is found among those that get it."""
        named = self._named(name)
        if named is not None:
            return _Taker(_wild(named), {names.CONSUMER_GROUP: name}, not named.handled)
        known = self._known.get(name)
        if known is None:
            found = next((one for one in self._listeners(subject) if one.name == name), None)
            known = _Taker((), {}, False) if found is None else _Taker(_wild(found), {}, not found.handled)
            if len(self._known) < MOST:
                self._known[name] = known
        return known


def _wild(subscription: Subscription) -> tuple[Pattern, ...]:
    return tuple(one for one in subscription.patterns if isinstance(one, Pattern))


def _under(pattern: Pattern, subject: str) -> Destination:
    template = {names.DESTINATION_TEMPLATE: pattern.text}
    return Destination(pattern.text, {**template, names.DESTINATION_NAME: subject}, template)
