"""Trying a law: on each message of a list, or on messages that hypothesis makes, one by one or several together."""

from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.objects import shown
from pipebus.foreign.packages import install
from pipebus.message.message import Message
from pipebus.testing.laws.case import Case, Tested, as_message
from pipebus.testing.laws.laws import Law
from pipebus.testing.laws.marks import NUMBERS

TOGETHER: Final = 4
"""How many messages with different bodies are sent through one filter."""

EXAMPLES: Final = 100
"""How many messages a search for the smallest one may begin with."""

STORIES: Final = 3
"""Of how many messages, from the end, the stories are shown."""


MOST_REPEATS: Final = 5
"""How often the same may happen in a story before most of it is left out."""


class LawBroken(AssertionError):
    """
    A filter breaks a law.

    Args:
        law: The name of the law, as in `skip`.
        message: The smallest message found that breaks it; of several, the first.
    """

    def __init__(self, law: str, text: str, message: Message[Any] | None) -> None:
        super().__init__(text)
        self.law = law
        self.message = message


def try_law(law: Law, tested: Tested, messages: list[Message[Any]], smaller: Any = None) -> None:
    """Try a law on some messages. If it is broken, search for the smallest one that is enough, also of their strategy."""
    __tracebackhide__ = True
    case = Case(tested, messages)
    problem = _problem(law, case)
    if problem is None:
        return
    if law.on == "each" and smaller is not None:
        search(lambda message: _try_alone(law, tested, [message]), smaller, EXAMPLES)
    for message in messages if law.on == "each" else ():
        _try_alone(law, tested, [message])
    if law.on != "filter":
        _try_alone(law, tested, messages)
    raise _broken(law, case, problem)


def _try_alone(law: Law, tested: Tested, messages: list[Message[Any]]) -> None:
    """Try a law on as little as possible: with one of the things at a time that the rest may do."""
    __tracebackhide__ = True
    case = Case(tested, messages, alone=True)
    problem = _problem(law, case)
    if problem is not None:
        raise _broken(law, case, problem)


def _broken(law: Law, case: Case, problem: str) -> LawBroken:
    lines = [f'check_filter({case.tested.title}): law "{law.name}" is broken', f"  {problem}"]
    if law.on == "each" and len(case.given) == 1:
        lines.append(f"  smallest message: {_shown(case.given[0])}")
    stories = [case.story] if case.story is not None else [run.story for run in case.runs[-STORIES:]]
    if case.story is None and len(case.runs) > STORIES:
        stories.insert(0, f"… {len(case.runs) - STORIES} before")
    for story in stories:
        lines += ["", *(f"  {line}" for line in folded(story.splitlines()))]
    return LawBroken(law.name, "\n".join(lines), case.given[0] if law.on != "filter" else None)


def folded(lines: list[str]) -> list[str]:
    """A story in which only the first two remain of what happens again and again, with other numbers."""
    kinds = [" ".join(NUMBERS.sub("0", line).split()) for line in lines]
    kept: list[str] = []
    at = 0
    while at < len(lines):
        size, again = max(((size, _repeats(kinds[at:], size)) for size in (1, 2, 3)), key=lambda found: found[0] * found[1])
        if again > MOST_REPEATS:
            kept += [*lines[at : at + 2 * size], f"   … {again - 2} more times"]
        else:
            size, again = 1, 1
            kept.append(lines[at])
        at += size * again
    return kept


def _repeats(kinds: list[str], size: int) -> int:
    """How often the first lines, so many of them, come one after the other."""
    starts = range(0, len(kinds), size)
    return next((number for number, start in enumerate(starts) if kinds[start : start + size] != kinds[:size]), len(starts))


def _problem(law: Law, case: Case) -> str | None:
    with closing(law.holds(case)) as problems:  # type: ignore[type-var]
        return next(problems, None)


def chosen(messages: Any) -> Any:
    """The list of messages, or the strategy, that `check_filter(messages=…)` means."""
    if isinstance(messages, Message):
        return [messages]
    if isinstance(messages, (list, tuple)):
        if not messages:
            raise PipelineError("check_filter(messages=[]): there is no message to try it on")
        return [as_message(one) for one in messages]
    try:
        from pipebus.testing.laws import strategies
    except ImportError as error:
        raise PipelineError(
            f"check_filter makes its messages with hypothesis, which is not installed: {install('testing')}; "
            "or give messages=[Message(…), …]"
        ) from error
    return strategies.chosen(messages)


def drawn(strategy: Any, examples: int) -> list[Message[Any]]:
    """So many messages; fewer if there are no more different ones."""
    made: list[Message[Any]] = []
    search(made.append, strategy, examples)
    return made


def several(messages: list[Message[Any]], plain: bool) -> list[list[Message[Any]]]:
    """Lists of messages of one subject with different bodies: the largest, the smallest; `plain`: people with names instead."""
    found: list[list[Message[Any]]] = []
    for subject in {shown(one.subject): one.subject for one in messages}.values():
        bodies = {shown(one.body): one for one in messages if one.subject == subject}
        some = sorted(bodies.values(), key=lambda message: len(shown(message.body)))
        found += [some[-TOGETHER:], some[:TOGETHER]] if len(some) > TOGETHER else [some]
    return [[Message("test", {"name": name}) for name in ("ada", "bob", "cleo", "dan")], found[-1]] if plain else found


def search(one: Callable[[Message[Any]], object], strategy: Any, examples: int) -> None:
    """Call a function with messages that hypothesis makes. If it raises LawBroken, raise that of the smallest message."""
    __tracebackhide__ = True
    import hypothesis

    broken: list[LawBroken] = []
    phases = set(hypothesis.Phase) - {hypothesis.Phase.explain}  # it takes the longest, and its result is not shown

    @hypothesis.settings(
        max_examples=examples, phases=phases, database=None, deadline=None, derandomize=True, report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    @hypothesis.given(strategy)
    def tried(message: Message[Any]) -> None:
        try:
            one(message)
        except LawBroken as error:
            broken.append(error)
            raise

    with suppress(LawBroken):
        tried()
    if broken:
        raise broken[-1].with_traceback(None)  # hypothesis runs the smallest one last


def _shown(message: Message[Any]) -> str:
    text = f"Message({str(message.subject)!r}, {message.body!r}"
    if message.headers:
        text += f", headers={dict(message.headers)!r}"
    for name in ("key", "ttl", "correlation_id"):
        value = getattr(message, name)
        if value is not None:
            text += f", {name}={value!r}"
    return f"{text})"
