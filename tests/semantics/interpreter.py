"""
The meaning of a chain, as one recursive function over its description.

Nothing here is shared with the bus: no links, no compiled routes, no colours. A chain is a tuple of descriptions, `run` reads
them one after the other, and records what happens: each filter that is entered, each predicate that is called, each
outcome or error that comes back to a filter. The tests build real filters from the same descriptions and compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from typing import Any, Literal

# --- descriptions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """
    One filter: what it does on the way in, how often it calls on, and how it ends.

    Args:
        name: Its name, and the identity of the object: two descriptions of one name are one object.
        shape: "sync" and "async" are plain filters.
        failures: How many of its first calls raise at once.
        header, body, subject: What it changes in the message that it hands on.
        junk: It hands on something that is not a message.
        passes: How often it calls on (a Transform: always once).
        on_error: What it does with an error of the rest: let it through, swallow it, or try again (its `passes` bound that).
        end: What it returns: the last outcome, `Dropped`, an outcome of its own, nothing, or it raises.
    """

    name: str
    shape: Literal["sync", "async", "transform", "around"] = "sync"
    failures: int = 0
    header: tuple[str, str] | None = None
    body: str | None = None
    subject: str | None = None
    junk: bool = False
    passes: int = 1
    on_error: Literal["raise", "swallow", "retry"] = "raise"
    end: Literal["last", "drop", "answer", "nothing", "raise"] = "last"

    def __repr__(self) -> str:
        told = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Filter({', '.join(told)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


@dataclass(frozen=True)
class Predicate:
    """Reads a header of the message; raises if its value is "boom"."""

    name: str
    header: str
    value: str


@dataclass(frozen=True)
class When:
    test: str | Predicate
    inside: tuple[Any, ...]


@dataclass(frozen=True)
class Branch:
    test: str | Predicate
    inside: tuple[Any, ...]


@dataclass(frozen=True)
class Otherwise:
    inside: tuple[Any, ...]


@dataclass(frozen=True)
class Switch:
    """`inside` has a When for each case, and perhaps an Otherwise as the last."""

    inside: tuple[Any, ...]


@dataclass(frozen=True)
class Pipeline:
    inside: tuple[Any, ...]
    on_error: Literal["reject", "dead_letter", "drop"] | None = None


Chain = tuple[Any, ...]


@dataclass(frozen=True)
class Mail:
    """The parts of a message that chains look at."""

    subject: Any
    body: Any = None
    headers: tuple[tuple[str, str], ...] = ()

    def changed(self, by: Filter) -> Mail:
        headers = tuple(sorted({**dict(self.headers), **dict([by.header] if by.header else [])}.items()))
        return Mail(by.subject or self.subject, self.body if by.body is None else by.body, headers)


class Failure(Exception):
    """
    An error on its way out.

    Args:
        label: ("boom", number), ("contract",) or ("full",).
        origin: The filter, predicate, handler or mailbox in which it arose.
    """

    def __init__(self, label: tuple[Any, ...], origin: str | None) -> None:
        self.label = label
        self.origin = origin
        self.settled = False  # whether a pipeline has decided about it
        super().__init__(label, origin)


Outcome = tuple[Any, ...]
"""("receipt", mailboxes), ("handled", value) or ("dropped", reason, by)."""
Next = Callable[[Mail], Outcome]


# --- the meaning -------------------------------------------------------------------------------------------------------


@dataclass
class Interpreter:
    """
    Args:
        side: The side whose outcomes and error rules apply.
        trace: What happened, in order.
        letters: (origin, label) of each error that a publish chain's pipeline made a dead letter.
    """

    side: Literal["publish", "delivery"]
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    letters: list[tuple[Any, ...]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    booms: int = 0

    def run(self, chain: Chain, mail: Mail, rest: Next, leave: Next) -> Outcome:
        """`rest` is what follows this chain, `leave` the terminal, where branches go."""
        if not chain:
            return rest(mail)
        node, others = chain[0], chain[1:]

        def onward(mail: Mail) -> Outcome:
            return self.run(others, mail, rest, leave)

        match node:
            case Filter(shape="transform"):
                return self.transform(node, mail, onward)
            case Filter():
                return self.filter(node, mail, onward)
            case When():
                return self.run(node.inside, mail, onward, leave) if self.holds(node, mail) else onward(mail)
            case Branch():
                return self.run(node.inside, mail, leave, leave) if self.holds(node, mail) else onward(mail)
            case Switch():
                case = next((one for one in node.inside if isinstance(one, Otherwise) or self.holds(one, mail)), None)
                return self.run(case.inside, mail, onward, leave) if case is not None else onward(mail)
            case Pipeline():
                return self.pipeline(node, mail, onward, leave)
        raise TypeError(node)

    def transform(self, it: Filter, mail: Mail, onward: Next) -> Outcome:
        self.enter(it, mail)
        if it.end == "raise":
            raise self.boom(it.name)
        if it.end == "drop":
            return ("dropped", f"{it.name} says so", it.name)
        if it.junk or it.end in ("nothing", "answer"):
            raise Failure(("contract",), it.name)
        return onward(mail.changed(it))

    def filter(self, it: Filter, mail: Mail, onward: Next) -> Outcome:
        self.enter(it, mail)
        outcome: Outcome | None = None
        for turn in range(1, it.passes + 1):
            try:
                if it.junk:
                    raise Failure(("contract",), it.name)
                outcome = onward(mail.changed(it))
                self.trace.append((it.name, "back", outcome))
                if it.on_error == "retry":
                    break
            except Failure as failure:
                self.trace.append((it.name, "error", failure.label))
                if it.on_error == "raise" or (it.on_error == "retry" and turn == it.passes):
                    raise
        if it.end == "raise":
            raise self.boom(it.name)
        if it.end == "drop":
            return ("dropped", f"{it.name} says so", it.name)
        if it.end == "answer":
            return ("receipt", 7) if self.side == "publish" else ("handled", it.name)
        if outcome is None or (it.end == "nothing" and it.shape != "around"):
            raise Failure(("contract",), it.name)  # an Around's bare return stands for its last outcome
        return outcome

    def enter(self, it: Filter, mail: Mail) -> None:
        self.calls[it.name] += 1
        self.trace.append((it.name, "in", mail))
        if self.calls[it.name] <= it.failures:
            raise self.boom(it.name)

    def boom(self, origin: str) -> Failure:
        self.booms += 1
        return Failure(("boom", self.booms), origin)

    def holds(self, node: When | Branch, mail: Mail) -> bool:
        test = node.test
        if isinstance(test, str):
            return matches(test, mail.subject)
        self.trace.append((test.name, "asked", mail))
        if test.value == "boom":
            raise self.boom(f"{type(node).__name__.lower()}({test.name})")
        return dict(mail.headers).get(test.header) == test.value

    def pipeline(self, node: Pipeline, mail: Mail, onward: Next, leave: Next) -> Outcome:
        """`on_error` rules the errors of its own filters, unless a pipeline inside has ruled; not those from further in."""
        foreign: list[Failure] = []

        def watched(further: Next) -> Next:
            def call(mail: Mail) -> Outcome:
                try:
                    return further(mail)
                except Failure as failure:
                    foreign.append(failure)
                    raise

            return call

        try:
            return self.run(node.inside, mail, watched(onward), watched(leave))
        except Failure as failure:
            if node.on_error is None or failure.settled or failure in foreign:
                raise
            if node.on_error == "reject" or (node.on_error == "dead_letter" and self.side == "delivery"):
                failure.settled = True
                raise
            if node.on_error == "dead_letter":
                self.letters.append((failure.origin, failure.label))
            return ("dropped", node.on_error, failure.origin)


@cache
def matches(pattern: str, subject: object) -> bool:
    """The rules of NATS, token by token; no pattern matches an object."""
    if not isinstance(subject, str):
        return False

    def fits(pattern: list[str], tokens: list[str]) -> bool:
        if not pattern or not tokens:
            return not pattern and not tokens
        if pattern[0] == ">":
            return True
        return pattern[0] in ("*", tokens[0]) and fits(pattern[1:], tokens[1:])

    return fits(pattern.split("."), subject.split("."))


# --- what could happen -------------------------------------------------------------------------------------------------


def flow(chain: Chain, subjects: frozenset[str], everything: frozenset[str], idle: list[Any]) -> frozenset[str]:
    """
    The ones of `subjects` that may reach the end of a chain, whatever predicates and filters do.

    Args:
        everything: All subjects that a changed subject may become.
        idle: Collects the nodes that none of them can reach, or (for `when` and `branch`) enter.
    """
    for node in chain:
        if not subjects:
            idle.append(node)
        match node:
            case Filter() if node.subject is not None and subjects:
                subjects = everything
            case Pipeline():
                subjects = flow(node.inside, subjects, everything, idle)
            case Switch():
                through = frozenset()
                for case, taken, left in taken_by_case(node, subjects):
                    if not taken:
                        idle.append(case)
                    through |= flow(case.inside, taken, everything, idle)
                    subjects = left
                subjects |= through
            case When() | Branch():
                certain = isinstance(node.test, str)
                taken = frozenset(s for s in subjects if matches(node.test, s)) if isinstance(node.test, str) else subjects
                if not taken:
                    idle.append(node)
                through = flow(node.inside, taken, everything, idle)
                subjects = subjects - taken if certain else subjects
                if isinstance(node, When):
                    subjects |= through
    return subjects


def taken_by_case(node: Switch, subjects: frozenset[str]) -> Iterator[tuple[Any, frozenset[str], frozenset[str]]]:
    """Each case of a switch, with the subjects that it may take and those that it may leave to the next case."""
    for case in node.inside:
        taken = subjects
        if isinstance(case, Otherwise):
            subjects = frozenset()
        elif isinstance(case.test, str):
            taken = frozenset(s for s in subjects if matches(case.test, s))
            subjects -= taken
        yield case, taken, subjects


def met(chain: Chain, subject: str, everything: frozenset[str]) -> set[str]:
    """The filters that a message on `subject` may meet."""
    found: set[str] = set()

    def walk(chain: Chain, subjects: frozenset[str]) -> None:
        for position, node in enumerate(chain):
            subjects = flow(chain[position - 1 : position], subjects, everything, []) if position else subjects
            if not subjects:
                return
            if isinstance(node, Filter):
                found.add(node.name)
            elif isinstance(node, Switch):
                for case, taken, _ in taken_by_case(node, subjects):
                    walk(case.inside, taken)
            elif isinstance(node, Pipeline) or not isinstance(node.test, str):
                walk(node.inside, subjects)
            else:
                walk(node.inside, frozenset(s for s in subjects if matches(node.test, s)))

    walk(chain, frozenset([subject]))
    return found


def without_others(chain: Chain, names: set[str]) -> Chain:
    """The part of the chain that matters to the named filters: what leads to them, and what changes subjects."""
    kept: list[Any] = []
    for node in chain:
        if isinstance(node, Filter):
            if node.name in names or node.subject is not None:
                kept.append(node)
            continue
        if isinstance(node, Switch):  # a case that is left out would leave its messages to the next
            kept.append(Switch(tuple(replace(case, inside=without_others(case.inside, names)) for case in node.inside)))
            continue
        inside = without_others(node.inside, names)
        if any(it.name in names for it in filters_of(inside)) or (inside and not isinstance(node, Branch)):
            kept.append(replace(node, inside=inside))
    return tuple(kept)


def every_subject(tokens: str, longest: int) -> frozenset[str]:
    return frozenset(".".join(found) for size in range(1, longest + 1) for found in product(tokens, repeat=size))


def filters_of(chain: Chain) -> Iterator[Filter]:
    for node in chain:
        if isinstance(node, Filter):
            yield node
        else:
            yield from filters_of(node.inside)
