"""The differences between what a test of a config file expects and what happened, as sentences."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipebus.config.catalogue import word
from pipebus.config.kinds.expected import NOTHING
from pipebus.config.kinds.expected import in_words as told
from pipebus.config.reading.cases import Case
from pipebus.config.vocabulary import Received
from pipebus.config.wording import shown
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.testing.files.found import Found
from pipebus.values.json_data import plain

EMPTY: Final[Mapping[str, str]] = {}

SHOWN: Final = 5
"""How many messages a difference shows at most."""


def differences_of(case: Case, found: Found) -> Iterator[str]:
    """A sentence for each thing that is not as expected."""

    def at(key: str) -> str:
        return f"{case.file}:{case.lines.get(key, case.line)}: "

    expect = case.test.expect
    for index, (wanted, outcome) in enumerate(zip(case.outcomes, found.outcomes, strict=False)):
        if wanted != outcome.word:
            which = "outcome" if len(found.outcomes) == 1 else f"outcome[{index}]"
            why = f" (by {outcome.by}: {outcome.reason})" if outcome.by else f" ({outcome.reason})" if outcome.reason else ""
            yield at("outcome") + f"{which}: expected {shown(wanted)}, found {shown(outcome.word)}{why}"
    ends = found.ends
    if expect.by is not None and not any(by is not None and word(by) == word(expect.by) for by, _ in ends):
        others = ", ".join(dict.fromkeys(shown(by) for by, _ in ends if by is not None)) or "nobody"
        yield at("by") + f"by: expected {shown(expect.by)}, found {others}"
    if expect.reason is not None:
        reasons = [reason for by, reason in ends if expect.by is None or (by is not None and word(by) == word(expect.by))]
        yield from _best(at("reason"), "reason", expect.reason, reasons or [reason for _, reason in ends])
    counts = {name: len(messages) for name, messages in found.messages.items()}
    yield from _counted(at("deliveries"), "deliveries", expect.deliveries, counts)
    dead = Counter(place for place, _ in found.dead)
    yield from _counted(at("dead"), "dead", expect.dead, dead, dict(reversed(found.dead)))
    if expect.error is not None:
        yield from _best(at("error"), "error", expect.error, [error for _, error in found.dead])
    if expect.dead is None and expect.error is None:
        for place, error in found.dead:
            yield f"{case.file}:{case.line}: a message died in {place}: {error} (if that is expected: dead = {len(found.dead)})"
    for failed in found.errors:
        yield f"{case.file}:{case.line}: {text_of(failed)} (it caused no dead letter)"
    if expect.published is not None:
        yield from _messages(at("published"), "published", expect.published, found.published)
    for name, wanted_messages in expect.received.items():
        yield from _messages(at("received"), f"received.{name}", wanted_messages, found.messages.get(name, []))


def _best(at: str, what: str, wanted: Any, texts: list[str]) -> Iterator[str]:
    """The differences from the text that has the fewest."""
    tries = [list(wanted.differences(text, what)) for text in texts] or [list(wanted.differences(NOTHING, what))]
    for difference in min(tries, key=len):
        yield f"{at}{difference}"


def _counted(
    at: str, what: str, wanted: int | dict[str, int] | None, counts: Mapping[str, int], errors: Mapping[str, str] = EMPTY
) -> Iterator[str]:
    if isinstance(wanted, int):
        total = sum(counts.values())
        if total != wanted:
            each = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            why = next((f"; {place}: {error}" for place, error in errors.items()), "")
            yield f"{at}{what}: expected {wanted}, found {total}{f' ({each})' if each else ''}{why}"
    for name, count in (wanted if isinstance(wanted, dict) else {}).items():
        if counts.get(name, 0) != count:
            why = f"; {errors[name]}" if name in errors else ""
            yield f"{at}{what}.{name}: expected {count}, found {counts.get(name, 0)}{why}"


def _messages(at: str, what: str, wanted: list[Received], messages: list[Message[Any]]) -> Iterator[str]:
    if len(wanted) != len(messages):
        count = f"{len(wanted)} message{'' if len(wanted) == 1 else 's'}"
        yield f"{at}{what}: expected {count}, found {len(messages)}{_bodies(messages)}"
        return
    for index, (expected, message) in enumerate(zip(wanted, messages, strict=True)):
        path = what if len(wanted) == 1 else f"{what}[{index}]"
        for key, one in expected.values(given=True).items():
            for difference in one.differences(_field(message, key), f"{path}.{key}"):
                yield f"{at}{difference}"


def _bodies(messages: list[Message[Any]]) -> str:
    shown = [f"{message.subject} {told(_field(message, 'body'))}" for message in messages[:SHOWN]]
    return (": " if shown else "") + "; ".join(shown) + ("; …" if len(messages) > SHOWN else "")


def _field(message: Message[Any], key: str) -> Any:
    if key == "body":
        try:
            return plain(message.body)
        except ValueError:  # it is not data, so it equals no expected value
            return message.body
    if key == "headers":
        return dict(message.headers)
    return str(message.subject) if key == "subject" else getattr(message, key)
