"""Reroute: compute the subject from the message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

import msgspec

from pipebus.errors import PipelineError, Rejected, SubjectError
from pipebus.filters.changing import Changing
from pipebus.foreign.objects import json_type, plain_text, shown
from pipebus.message.fields import plain_number
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.message.subject import Address, check_subject
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished

_NONE = object()


@dataclass(eq=False)
class Reroute(Changing):
    """
    Give a message another subject. It continues in the rest of the chain as compiled for that subject.

    Args:
        to: A template such as "flights.{body.origin}.{body.carrier}", or a function of the message that returns a subject.
            Fields: `subject`, `key`, `id`, `headers.NAME`, and `body.FIELD` (deeper with more dots; fields of mappings,
            models and dataclasses, except private ones). Each value must be one token: text or a whole number.

    Raises:
        Rejected: a field is missing, or its value cannot be a token.
    """

    to: str | Callable[[Message[Any]], str]
    reroutes = True

    def __post_init__(self) -> None:
        self.reroutes_to: Pattern | None = None
        if callable(self.to) and is_plain(self.to):
            return
        self.to = plain_text(self.to)
        if not isinstance(self.to, str):
            raise PipelineError(f"Reroute.to={shown(self.to)}: it is a template, or a plain function of the message")
        try:
            parsed = list(Formatter().parse(self.to))
        except ValueError as error:
            raise PipelineError(f"Reroute.to={shown(self.to)}: {error}; write fields as {{body.origin}}") from None
        for _, field, spec, conversion in parsed:
            if spec or conversion:
                raise PipelineError(f"Reroute.to={shown(self.to)}: fields take no format; write {{body.origin}} and no more")
            if field is not None:
                self._check_field(field)
        self._parts = [(text, field) for text, field, _, _ in parsed]
        try:
            check_subject("".join(text + ("x" if field is not None else "") for text, field in self._parts))
        except SubjectError as error:
            raise PipelineError(f"Reroute.to={shown(self.to)} does not make a subject: {error}") from None
        shape = "".join(text + {None: "", "subject": "\1"}.get(field, "\0") for text, field in self._parts)
        tokens = ["*" if "\0" in token else token for token in shape.partition("\1")[0].split(".")]
        if "\1" in shape:
            tokens[-1] = ">"  # the old subject has any number of tokens
        self.reroutes_to = Pattern(".".join(tokens))

    def _check_field(self, field: str) -> None:
        root, *path = field.split(".")
        fine = (
            (root in ("subject", "key", "id") and not path)
            or (root == "headers" and len(path) == 1)
            or (root == "body" and bool(path))
        )
        if not fine or any(not part or part.startswith("_") or set(part) & set("[]*") for part in path):
            raise PipelineError(
                f"Reroute.to={shown(self.to)}: {{{field}}} is not a field; "
                "there are subject, key, id, headers.NAME and body.FIELD"
            )

    def transform(self, message: Message[Any], /) -> Message[Any]:
        if callable(self.to):
            subject = plain_text(finished(self.to(message)))
            if not isinstance(subject, (str, Address)):
                raise Rejected(f"cannot reroute: the function returned {shown(subject)}, which is not a subject")
        else:
            subject = "".join(text + (self._token(message, field) if field else "") for text, field in self._parts)
        return msgspec.structs.replace(message, subject=subject)

    def _token(self, message: Message[Any], field: str) -> str:
        root, *path = field.split(".")
        value: Any = getattr(message, root)
        for part in path:
            value = value.get(part, _NONE) if isinstance(value, Mapping) else getattr(value, part, _NONE)
            if value is _NONE:
                raise Rejected(f"cannot reroute: there is no {field}")
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise Rejected(f"cannot reroute: {field} is {json_type(value)}; a token is text or a whole number")
        token = str(plain_number(plain_text(value)))
        try:
            check_subject(token)
            fine = root == "subject" or "." not in token
        except SubjectError:
            fine = False
        if not fine:  # it is not shown: it may be an address
            raise Rejected(f"cannot reroute: {field} is not one token of a subject (no dots, white space, * or >, not empty)")
        return token
