"""Validate: a body that does not fit its subject never reaches a mailbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipebus.errors import PipelineError
from pipebus.filters.changing import Changing
from pipebus.foreign.objects import plain_text
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.message.subject import REPLY
from pipebus.values import validation
from pipebus.values.quantities import Type

Check = Callable[[Any], Any]
CACHE = 4096


@dataclass(eq=False)
class Validate(Changing):
    """
    Check bodies against pydantic models (or any type that pydantic understands), by subject pattern.

    Args:
        models: Pattern -> type; the first pattern that matches applies. Messages on other subjects and replies pass
            unchecked.
        replace: True: the validated value replaces the body. False: the body stays unchanged.
        name: The name of the filter; by default that of the class.

    Raises:
        Rejected: with one sentence for each error in the body, without its values.

    Example:
        >>> from pipebus import Message, Rejected
        >>> Validate({"ages.>": int}).transform(Message("ages.ada", "36")).body
        36
        >>> Validate({"ages.>": int}).transform(Message("ages.ada", "old"))
        Traceback (most recent call last):
        pipebus.errors.Rejected: rejected by a filter: Input should be a valid integer, unable to parse string as an integer
    """

    models: Mapping[str, Type]
    replace: bool = True
    name: str = ""
    provides = ("validated",)

    _checks: list[tuple[Pattern, Check]] = field(init=False, repr=False)
    _known: dict[Any, Check | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.models, Mapping) or not self.models:
            raise PipelineError(f'Validate.models={self.models!r}: it maps patterns to types, as in {{"orders.>": Order}}')
        if not self.replace:
            self.follows = self.precedes = {}
        self._refusal = validation.refusal()
        self._checks = []
        for given, model in self.models.items():
            pattern = plain_text(given)
            try:
                check = validation.validator(model)
            except Exception as error:
                raise PipelineError(
                    f'Validate.models["{pattern}"]: {model!r} is not a type to validate with: {error}'
                ) from error
            self._checks.append((Pattern(pattern), check))

    def transform(self, message: Message[Any], /) -> Message[Any]:
        subject = message.subject
        check = self._known.get(subject)
        if check is None:
            check = self._find(subject)
            if check is None:
                return message
        try:
            value = check(message.body)
        except self._refusal as error:
            raise validation.rejected(error) from None
        return message.with_body(value) if self.replace else message

    def _find(self, subject: Any) -> Check | None:
        if isinstance(subject, str) and subject.startswith(REPLY):
            return None  # an address for one answer, which no pattern means
        for pattern, check in self._checks:
            if pattern.matches(subject):
                if len(self._known) < CACHE:
                    self._known[subject] = check
                return check
        return None
