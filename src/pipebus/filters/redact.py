"""Redact: keep secrets and personal data out of mailboxes, wherever in a message they are."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from pipebus.errors import HeaderError, PipelineError, Rejected
from pipebus.filters.changing import Changing
from pipebus.filters.field_names import FieldNames, Tables, lower
from pipebus.foreign.objects import shown
from pipebus.message.headers import check_headers, frozen_headers
from pipebus.message.message import Message
from pipebus.values.compiling import DEEPEST

_VALUES: Final = (
    str, int, float, bool, type(None), bytes, bytearray, memoryview, decimal.Decimal, uuid.UUID, enum.Enum,
    datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip
"""Types without fields."""


@dataclass(eq=False)
class Redact(Changing):
    """
    Mask or remove fields by name: those of the body at any depth, and headers.

    The value of a field may be anything; if it is a table or a list, all of it is masked. The original message does not change.
    Only names count: a secret within a text or bytes, or in the subject or key, stays.

    Args:
        names: Names of fields and headers: "email" anywhere, "author.email" in a table "author". Case does not matter.
        mask: What replaces their values.
        remove: Remove the fields instead.

    Raises:
        HeaderError: at once, if the mask cannot be the value of a header.
        Rejected: the body contains an object that is not plain data, such as a model, so its fields cannot be replaced. This
            happens after a `Validate` that replaces bodies by models: put Redact in front of it.

    Example:
        >>> from pipebus import Message
        >>> Redact(["email", "card"]).transform(Message("a", {"commits": [{"author": {"email": "ada@example.org"}}]})).body
        {'commits': [{'author': {'email': '[redacted]'}}]}
    """

    names: list[str]
    mask: str = "[redacted]"
    remove: bool = False
    provides = ("redacted",)
    deterministic = True
    idempotent = True

    def __post_init__(self) -> None:
        self._names = FieldNames(self.names, "Redact.names")
        self.names = list(self._names.names)
        if not self.names:
            raise PipelineError("Redact.names=[]: nothing to do; name the fields, as in ['email', 'card']")
        if not isinstance(self.mask, str):
            raise PipelineError(f"Redact.mask={shown(self.mask)}: it is a text")
        try:
            check_headers({"mask": self.mask})
        except HeaderError as error:
            raise HeaderError(f"Redact.mask={shown(self.mask)}: it may replace the value of a header; {error}") from None

    def transform(self, message: Message[Any], /) -> Message[Any]:
        body = self._redacted(message.body, ("body",))
        if body is not message.body:
            message = message.with_body(body)
        headers = self._redacted(message.headers, ("headers",)) if message.headers else message.headers
        return message if headers is message.headers else msgspec.structs.replace(message, headers=frozen_headers(headers))

    def _redacted(self, value: Any, around: Tables, depth: int = 0) -> Any:
        """The value without the named fields; the same object if it has none of them."""
        if isinstance(value, _VALUES):
            return value
        if depth >= DEEPEST:
            raise Rejected(f"the body is nested in more than {DEEPEST} levels")
        if isinstance(value, Mapping):
            table = {}
            same = True
            for key, old in value.items():
                if not self._names.include(key, around):
                    inside = old if isinstance(old, _VALUES) else self._redacted(old, (*around, lower(key)), depth + 1)
                    table[key] = inside
                    same = same and inside is old
                elif self.remove:
                    same = False
                else:
                    table[key] = self.mask
                    same = same and type(old) is str and old == self.mask
            return value if same else table
        if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
            found = [self._redacted(one, around, depth + 1) for one in value]
            return value if all(new is old for new, old in zip(found, value, strict=True)) else found
        raise Rejected(
            f"{'.'.join(around)} is {type(value).__name__}, whose fields cannot be redacted; put Redact in front of Validate, "
            "or publish plain data"
        )
