"""
What a bus runs, as data (`describe_bus`) and as text (`explain`). Both read the nodes that the chains were compiled from.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pipebus.bus.engine import Engine
from pipebus.bus.origins import origin_of
from pipebus.delivery.chain import transforms_only
from pipebus.delivery.subscription import Subscription
from pipebus.foreign.objects import plain_text, said, shown, spared
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.message.subject import check_subject
from pipebus.pipeline.compose import Node
from pipebus.pipeline.forks import ALWAYS, Branch, Fork, Switch
from pipebus.pipeline.places import Place
from pipebus.pipeline.routes import filters_for
from pipebus.pipeline.step import Step
from pipebus.publishing.schedule import Schedule
from pipebus.values.expressions import Expression
from pipebus.values.validation import name_of_type

HIDDEN: Final = "[hidden]"


# --- data --------------------------------------------------------------------------------------------------------------


def describe_bus(engine: Engine, subscriptions: Iterable[Subscription] | None = None) -> dict[str, Any]:
    """`Bus.describe`; with all subscriptions, or with these."""
    subscriptions = engine.subscriptions if subscriptions is None else subscriptions
    return {
        "transport": engine.url,
        "bus": engine.options() | engine.from_file.bus,
        "publish": [describe_node(node) for node in engine.router.nodes],
        "delivery": [describe_node(node) for node in engine.delivery_nodes],
        "subscriptions": [describe_subscription(s) for s in sorted(subscriptions, key=lambda s: s.name)],
        "schedules": [
            # In the order of a file, which has tables of each kind.
            describe_schedule(schedule)
            for schedule in sorted(engine.schedules, key=lambda one: "cron" in one.timetable.facts)
        ],
    }


def _chosen_settings(filter: Any, origin: Mapping[str, Any]) -> str:
    """
    The settings of a dataclass filter that differ from their defaults, written as in the config file if it has one. For other
    filters, those in the file.
    """
    if not dataclasses.is_dataclass(filter) or isinstance(filter, type):
        return ", ".join(f"{name}={_short(value)}" for name, value in _written(origin).items())
    defaults = {field.name: field.default for field in dataclasses.fields(filter)}
    chosen = {name: value for name, value in settings(filter).items() if value != value_text(defaults[name])}
    chosen.update(origin)
    return ", ".join(f"{name}={_short(value)}" for name, value in chosen.items() if name in defaults)


def describe_node(node: Node) -> dict[str, Any]:
    if isinstance(node, Step):
        return {
            "filter": node.name,
            "is": value_text(what_it_is(node.filter)),
            "shape": node.shape,
            "colour": node.colour,
            "settings": {**settings(node.filter), **_written(origin_of(node))},
            "place": place_text(node.place),
        }
    inside = {"filters": [describe_node(inner) for inner in node.nodes], "place": place_text(node.place)}
    if isinstance(node, Switch):
        return {"switch": True, **inside}
    if not isinstance(node, Fork):
        return {"pipeline": getattr(node, "on_error", None) or "default", **inside}
    if node.test is ALWAYS:
        return {"otherwise": True, **inside}
    test = node.test.pattern.text if node.test.pattern is not None else _predicate(node.test.predicate)
    return {node.word: test, **inside}


def _written(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the config file writes them: those with an interpolation and, if the filter is not a dataclass, all."""
    table = origin.get("")
    found = dict(table) if isinstance(table, dict) else {}
    for key in ("use", "target", "name"):
        found.pop(key, None)
    return found | {key: value for key, value in origin.items() if key}


def what_it_is(filter: Any) -> Any:
    """The filter itself if it has a name of its own, as a function has; otherwise its class."""
    return filter if getattr(filter, "__qualname__", None) is not None else type(filter)


def _predicate(predicate: Any) -> dict[str, Any]:
    text = value_text(predicate)
    return text if isinstance(text, dict) else {"predicate": text}


def describe_subscription(subscription: Subscription) -> dict[str, Any]:
    plan = subscription.plan
    return {
        "name": subscription.name,
        "subjects": [said(pattern) for pattern in subscription.patterns],
        "handler": value_text(plan.bound.handler) if plan.bound is not None else None,
        "reads": None if plan.reads is None else name_of_type(plan.reads),
        "run": plan.run_on,
        "workers": plan.workers,
        "mailbox": {"size": plan.size, "overflow": plan.overflow, "timeout": plan.timeout},
        "attempts": plan.attempts,
        "deliver": plan.deliver,
        "to": None if plan.to is None else said(plan.to),
        "filters": [describe_node(node) for node in plan.nodes],
        "place": place_text(subscription.place),
    }


def describe_schedule(schedule: Schedule) -> dict[str, Any]:
    chosen = {
        "name": schedule.given,
        "now": schedule.now or None,
        "missed": schedule.missed if schedule.missed != "skip" else None,
    }
    more = {**chosen, **dict(sorted(schedule.envelope.items()))}
    return {
        **schedule.timetable.facts,
        "subject": said(schedule.subject),
        "body": value_text(schedule.body),
        **{key: value_text(value) for key, value in more.items() if value not in (None, 0.0)},
        **{key: value for key, value in origin_of(schedule).items() if key not in ("interval", "expression", "subject")},
        "place": place_text(schedule.place),
    }


def settings(filter: Any) -> dict[str, Any]:
    """
    The public fields of a dataclass filter that `__init__` takes, as JSON-safe values; empty for other filters.

    The values of those that its own `repr` leaves out, such as keys, are not shown.
    """
    if not dataclasses.is_dataclass(filter) or isinstance(filter, type):
        return {}
    return {
        field.name: value_text(getattr(filter, field.name)) if field.repr else HIDDEN
        for field in dataclasses.fields(filter)
        if field.init and not field.name.startswith("_")
    }


def value_text(value: Any) -> Any:
    """`value` in a JSON-safe form: JSON's own types unchanged, a function or class as `module:name`, others as text."""
    try:
        return _value_text(value)
    except BaseException as error:
        spared(error)
        return shown(value)


def _value_text(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return plain_text(value)
    if isinstance(value, Expression):
        return {"expr": value.text}
    if isinstance(value, Mapping):
        return {said(key): value_text(inner) for key, inner in list(value.items())}
    if isinstance(value, (list, tuple)):
        return [value_text(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(said, list(value)))
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}:{name}"
    return f"<{type(value).__module__}:{type(value).__qualname__}>" if callable(value) else said(value)


def place_text(place: Place) -> str:
    """`file:line`; the file is relative to the working directory if that is shorter."""
    try:
        relative = os.path.relpath(place.file)
    except ValueError:
        relative = place.file
    return f"{relative if len(relative) < len(place.file) else place.file}:{place.line}"


# --- text --------------------------------------------------------------------------------------------------------------


def explain(engine: Engine, about: Any, wide: int | None = None) -> str:
    """
    `Bus.explain`.

    Args:
        wide: Most characters of a line; None: as many as it takes.
    """
    message = about if isinstance(about, Message) else None
    subject = message.subject if message is not None else about
    subject = engine.address(subject)
    if isinstance(subject, str):
        check_subject(subject)
    lines: list[tuple[int, str, str, str]] = []
    _explain_chain(engine.router.nodes, subject, message, 1, lines)
    moves = any(step.traits.reroutes for step in filters_for(engine.router.nodes, subject))
    stays = ", if the subject stays" if moves else ""
    parts = [said(subject), "", "publish chain" if lines else "publish chain: no filter", *_table(lines, wide), ""]
    listeners = sorted(engine.listeners(subject), key=lambda s: s.name)
    if not listeners and moves and message is not None:
        parts.append("mailboxes: those of the new subject, which depends on its filters; `pipebus trace` runs them")
    elif not listeners:
        parts.append(f"mailboxes{stays}: nobody listens (a Receipt with 0 mailboxes, and an Unrouted event)")
    else:
        parts.append(f"mailboxes{stays}")
    for subscription in listeners:
        parts += _explain_subscription(subscription, engine, subject, message, wide)
    return "\n".join(parts).rstrip() + "\n"


def _explain_subscription(
    subscription: Subscription, engine: Engine, subject: Any, message: Any, wide: int | None
) -> list[str]:
    plan, publish_nodes, bus_nodes = subscription.plan, engine.router.nodes, engine.delivery_nodes
    rules = plan
    policy = f"{rules.overflow} at {rules.size:,}" + (f", {rules.timeout:g} s" if rules.overflow == "block" else "")
    if plan.bound is None:
        runs = "pull: read by its owner" + ("" if plan.reads is None else f" as {name_of_type(plan.reads)}")
    else:
        runs = f"{plan.run_on}, {rules.workers} worker{'s' if rules.workers > 1 else ''}"
    patterns = ", ".join(map(str, subscription.patterns))
    title = f"  {subscription.name} on {patterns}  [{runs}; {policy}]  {place_text(subscription.place)}"
    lines = _wrapped(title, "      ", wide)
    steps: list[tuple[int, str, str, str]] = []
    for_all = bus_nodes if plan.bound is not None else transforms_only(bus_nodes)
    before = bool(publish_nodes)
    _explain_chain(for_all, subject, message, 2, steps, before, True)
    if plan.bound is None and for_all != bus_nodes:
        steps.append((2, "(bus-wide filters other than Transforms)", "not for readers: they wrap handlers", ""))
    _explain_chain(plan.nodes, subject, message, 2, steps, before or bool(for_all), True)
    if plan.bound is not None:
        goes = f"what it returns goes to {plan.to}" if plan.to is not None else ""
        steps.append((2, f"-> {plan.bound.name}", goes, ""))
    return lines + _table(steps, wide)


def _explain_chain(
    chain: tuple[Node, ...],
    subject: Any,
    message: Message[Any] | None,
    depth: int,
    lines: list[tuple[int, str, str, str]],
    before: bool = False,
    delivery: bool = False,
) -> None:
    """
    Append a line for each node.

    Args:
        before: Whether filters of other chains run earlier. They may change what a predicate sees.
        delivery: Whether it is a delivery chain, in which no filter changes the subject.
    """
    certain = True  # until a filter may have changed the subject
    unchanged = not before  # until a filter may have changed the message

    def walk(chain: tuple[Node, ...], depth: int) -> bool:
        """Whether a branch is certainly taken, so that the nodes after it are skipped, also those of enclosing chains."""
        nonlocal certain, unchanged
        for index, node in enumerate(chain):
            where = place_text(node.place)
            branched = False
            if isinstance(node, Step):
                chosen = _chosen_settings(node.filter, origin_of(node))
                moves = node.traits.reroutes and not delivery
                note = "may change the subject: what follows depends on it" if moves else ""
                note = "an actor: asked in its own mailbox" if node.shape == "actor" else note
                lines.append((depth, f"{node.name}({chosen})" if chosen else node.name, note, where))
                certain = certain and not moves
                unchanged = False
            elif isinstance(node, Switch):
                lines.append((depth, node.name, "the first case that applies", where))
                branched = cases(node, depth + 1)
            elif not isinstance(node, Fork):
                lines.append((depth, "Pipeline", _on_error(node), where))
                branched = walk(node.nodes, depth + 1)
            else:
                decided, left = fork(node, depth)
                branched = decided is True and (left or isinstance(node, Branch))
            if branched:
                later = [other.name for other in chain[index + 1 :]]
                if later:
                    lines.append((depth, f"({', '.join(later)})", "skipped: a branch was taken", ""))
                return True
        return False

    def fork(node: Fork, depth: int) -> tuple[bool | None, bool]:
        """Whether the message goes into it, and whether a branch in it is certainly taken then."""
        decided, why = _decide(node, subject, message if unchanged else None, certain)
        if message is not None and not unchanged and node.test.pattern is None and node.test is not ALWAYS:
            why += "; filters before it may change what it sees"
        lines.append((depth, node.name, why, place_text(node.place)))
        return decided, decided is not False and walk(node.nodes, depth + 1)

    def cases(switch: Switch, depth: int) -> bool:
        """`walk` for the cases of a switch; whether a branch in the one that is certainly taken is certainly taken."""
        nonlocal certain, unchanged
        before = after = certain, unchanged
        only = True
        for index, case in enumerate(switch.nodes):
            certain, unchanged = before
            decided, left = fork(case, depth)
            after = after[0] and certain, after[1] and unchanged
            if decided:
                later = [other.name for other in switch.nodes[index + 1 :]]
                if later:
                    lines.append((depth, f"({', '.join(later)})", "skipped: an earlier case was taken", ""))
                break
            only, left = only and decided is False, False
        certain, unchanged = after
        return left and only

    walk(chain, depth)


def _decide(node: Fork, subject: Any, message: Message[Any] | None, certain: bool) -> tuple[bool | None, str]:
    """
    Whether a message goes into `node`, and why.

    Args:
        message: None: unknown, or filters before `node` may have changed it.
        certain: Whether the message still has this subject.

    Returns:
        True, False or None (it depends on the message), and the reason as text.
    """
    pattern: Pattern | None = node.test.pattern
    if node.test is ALWAYS:
        return True, "if no case before it applies"
    if pattern is not None:
        if not certain:
            return None, "depends on the new subject"
        if pattern.matches(subject):
            return True, f"taken: {subject} matches"
        return False, f"not taken: {subject} does not match"
    if message is None:
        return None, "asked for each message"
    predicate: Callable[[Message[Any]], object] = node.test.predicate  # type: ignore[assignment]
    try:
        answer = bool(predicate(message))
    except Exception as error:
        return None, f"unknown: {node.test.name} raises {type(error).__name__} for this message: {error}"
    return answer, f"{'taken' if answer else 'not taken'}: {node.test.name} is {answer} for this message"


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _table(lines: list[tuple[int, str, str, str]], wide: int | None) -> list[str]:
    """Three columns: what, why and where. If they are too wide, each reason gets a line of its own."""
    if not lines:
        return []
    whats = ["  " * depth + what for depth, what, _, _ in lines]
    middle, last = max(len(why) for _, _, why, _ in lines), max(len(place) for *_, place in lines)
    width = max(map(len, whats))
    if wide is None or width + middle + last + 4 <= wide:
        return [
            f"{what:<{width}}  {why:<{middle}}  {place}".rstrip() for what, (*_, why, place) in zip(whats, lines, strict=True)
        ]
    width = max((len(what) for what in whats if len(what) + last + 2 <= wide), default=0)
    found: list[str] = []
    for what, (depth, _, why, place) in zip(whats, lines, strict=True):
        indent = "  " * (depth + 2)
        found += _wrapped(f"{what:<{width}}  {place}".rstrip(), indent, wide)
        found += _wrapped(indent + why, indent, wide) if why else []
    return found


def _wrapped(row: str, indent: str, wide: int | None) -> list[str]:
    if wide is None:
        return [row]
    return textwrap.wrap(row, wide, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _on_error(node: Node) -> str:
    on_error = getattr(node, "on_error", None)
    return f"on_error={on_error}" if on_error else ""
