"""check_filter: try each law (laws.py) on a filter and many messages, and show the smallest message that breaks one."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipebus.errors import LifecycleError, PipelineError
from pipebus.foreign.objects import text_of
from pipebus.message.ids import repeatable
from pipebus.message.message import Message
from pipebus.pipeline.compose import Side
from pipebus.testing.alone.own_files import own_files
from pipebus.testing.laws.apart import keeps_messages_apart
from pipebus.testing.laws.case import Case, Tested, steps_of
from pipebus.testing.laws.laws import LAWS
from pipebus.testing.laws.making import maker
from pipebus.testing.laws.marks import marked
from pipebus.testing.laws.search import TOGETHER, LawBroken, chosen, drawn, folded, several, try_law
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.blocking import blocking
from pipebus.testing.simulation.locks import shared_locks
from pipebus.testing.simulation.scheduler import EPOCH
from pipebus.testing.simulation.threads import ForeignThread
from pipebus.values.quantities import is_whole

TRIED: Final = "is tried"
"""Not a law, but skipped like one: at least one message must reach the rest of the chain."""


def check_filter(
    filter: Any,
    messages: Any = None,
    *,
    at: Side = "publish",
    skip: Mapping[str, str] | None = None,
    examples: int = 20,
    replies: Mapping[Any, Any] | None = None,
) -> tuple[str, ...]:
    """
    Check that a filter keeps the laws.

    Args:
        filter: A filter of any shape; or, where each run needs a new one, a class or a function without parameters that makes
            one. A dataclass is made again from its fields.
        messages: What to try it on: a `Subject[T]` or a type that pydantic knows (bodies are made of its fields), a hypothesis
            strategy of messages or bodies, or a list of messages or bodies. None: messages of any kind. A body of a model or
            dataclass is an object, as a publisher sends it; for what a transport carries, give dictionaries.
        at: "publish", or "delivery" for a filter around a handler.
        skip: Laws that it need not keep, by name, each with the reason.
        examples: How many messages to try each law on, >= 1; of a list, all are tried.
        replies: As for `run_filter`.

    Returns:
        The names of the laws that were tried. Not among them are laws that say nothing about the filter, such as those on event
        loops about a sync one, and "is safe under concurrency" if the filter waits for something that the test does not
        control, such as a lock of another library.

    Raises:
        LawBroken: Names the law, what is wrong, and the smallest message that breaks it. PipelineError: An argument is wrong.
        LifecycleError: It is called inside a Harness.
    """
    __tracebackhide__ = True
    if threads.here() is not None:
        raise LifecycleError(
            "check_filter finds no races inside a Harness, whose threads change places only where they wait; call it before "
            "the Harness, or in a test without one"
        )
    skip = _skipped(skip)
    if not is_whole(examples, 1):
        raise PipelineError(f"check_filter(examples={examples!r}): it is a whole number of at least 1")
    make = maker(filter)
    with repeatable(EPOCH, b"messages"):
        return _tried(make, messages, at, skip, examples, replies)


def _tried(
    make: Callable[[], Any], messages: Any, at: Side, skip: dict[str, str], examples: int, replies: Any
) -> tuple[str, ...]:
    __tracebackhide__ = True
    strategy = chosen(messages)
    given = strategy if isinstance(strategy, list) else drawn(strategy, examples)
    together = several(given, messages is None)
    each = [given[number : number + TOGETHER] for number in range(0, len(given), TOGETHER)]
    smaller = None if isinstance(strategy, list) else strategy
    held = []
    files = own_files(*(step.filter for step in steps_of(make())))
    with shared_locks(files), blocking(files) as blocked, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # the law says so
        tested = Tested(make, at, files, blocked, replies)
        try:
            _begin(tested, together[0])
            laws = [law for law in LAWS if law.name not in skip]
            while laws:
                law = laws.pop(0)
                if not law.applies(tested):
                    continue
                for some in {"each": each, "several": together, "filter": together[:1]}[law.on]:
                    try_law(law, tested, some, smaller)
                if law.name not in tested.untried:
                    held.append(law.name)
                if tested.stuck:  # this law says best why, and to be stuck in each law takes seconds
                    laws.sort(key=lambda law: law.holds is not keeps_messages_apart)
        except ForeignThread as error:
            text = f"check_filter({tested.title}): {error}; here the threads of a ThreadPoolExecutor are controlled too"
            raise LawBroken(TRIED, text, None) from None
        if TRIED not in skip:
            _check_tried(tested)
    return tuple(law.name for law in LAWS if law.name in held)


def _skipped(skip: Any) -> dict[str, str]:
    """Raise PipelineError if it is not a mapping of laws to reasons."""
    if skip is not None and not isinstance(skip, Mapping):
        raise PipelineError(f"check_filter(skip={skip!r}): it is a mapping, of laws to reasons")
    known = (TRIED, *(law.name for law in LAWS))
    for name, reason in (skip or {}).items():
        if name not in known:
            raise PipelineError(f"check_filter: there is no law {name!r}; there are {', '.join(known[1:])}")
        if not isinstance(reason, str) or not reason:
            raise PipelineError(f"check_filter: skip[{name!r}] is {reason!r}; say why, in a text")
    return dict(skip or {})


def _begin(tested: Tested, messages: list[Message[Any]]) -> None:
    """Find out in which colours the filter runs; raise PipelineError if it runs in neither. Its first message has marks."""
    problem: PipelineError | None = None
    for colour in ("sync", "async"):
        case = Case(tested, messages)
        try:
            with case.bench(colour) as bench:
                for one in marked(case.numbered(1)[0]):
                    if case.send(bench, one.message, case.marked_ending()).forwards:
                        break
        except PipelineError as error:
            problem = problem or error
        else:
            tested.colours += (colour,)
            tested.first = tested.first or case.runs
    if not tested.colours and problem is not None:
        raise problem


def _check_tried(tested: Tested) -> None:
    """Raise LawBroken if no message reached the rest, or one of the filters: then they were not tried."""
    if not tested.came_through:
        problem = "no message came through to the rest, so most laws were not tried"
        errors = [run._error for run in tested.first]
        if errors[0] is not None and len(set(map(type, errors))) == 1:
            problem = f"each message ended in an error, the first in {text_of(errors[0])}\n  so {problem}"
    else:
        missed = next((step.name for number, step in enumerate(tested.steps) if number not in tested.reached), None)
        if missed is None:
            return
        problem = f"no message came to {missed}, so it was not tried"
    lines = [
        f"check_filter({tested.title}): {problem}; give messages= that it lets pass; or, if it keeps a state that is used up, "
        f'a class or function that makes a new filter each time; or skip={{"{TRIED}": "…"}}'
    ]
    if tested.last is not None:
        lines += ["", *(f"  {line}" for line in folded(tested.last.story.splitlines()))]
    raise LawBroken(TRIED, "\n".join(lines), None)
