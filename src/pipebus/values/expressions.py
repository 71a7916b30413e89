"""
Expressions: functions of a message without Python. The language is JMESPath (https://jmespath.org), which the command lines
of AWS and Azure use too.

    body.kind == 'order' && body.total > `100`      texts in single quotes, other values in backticks
    headers.tenant                                  a text
    length(body.items[?qty > `1`]) > `0`            is there an item with more than one piece?

The interpreter is plain Python without dependencies. An expression is compiled once, can reach nothing but data, reads only the
fields that it names, and cannot be crashed by a message. (The author of an expression is trusted: a line that doubles a list
forty times fills the memory.)

JMESPath ignores some mistakes in silence; here they are errors. When an expression is compiled: a name that no message has, and
`!body.ok`, which means `(!body).ok`. When a message passes: a condition that is neither true nor false because a field that it
compares is missing. One mistake remains: `!(body.total > `100`)` is true if there is no total.
"""

from __future__ import annotations

import copy
from typing import Any, Final

from pipebus.errors import Rejected
from pipebus.values.compiling import compiled
from pipebus.values.json_data import part
from pipebus.values.reading import Parts

_WORDS: Final = {dict: "a table", list: "a list", str: "a text", bool: "true or false", type(None): "null"}


class Expression:
    """
    A function of a message.

    Args:
        text: JMESPath over `subject`, `body`, `headers`, `key`, `id`, `time` (seconds), `ttl`, `reply_to`, `correlation_id`,
            `causation_id`.
            All are data as in JSON, also in memory: models and dataclasses are tables, times and decimals are texts
            (`to_number(body.total)` turns a text into a number).

    Raises:
        PipelineError: it is not an expression, or uses a name that no message has.

    Example:
        >>> from pipebus import Message
        >>> large = Expression("body.total > `100`")
        >>> large(Message("orders.created", {"total": 120}))
        True
    """

    __slots__ = ("_parts", "_search", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._search, self._parts = compiled(text)

    @property
    def name(self) -> str:
        return self.text

    @property
    def is_constant(self) -> bool:
        """Whether it reads nothing of a message, so that its value is the same for all."""
        return not self._parts

    def __call__(self, message: Any) -> Any:
        """
        Return the value for a message, as data of JSON.

        Raises:
            Rejected: with the reason why it cannot be evaluated for this message.
        """
        try:
            found = self._search({name: _field(message, name, parts) for name, parts in self._parts.items()})
            return copy.deepcopy(found) if type(found) in (list, dict) else found  # a part of the expression or body
        except Exception as error:  # errors of JMESPath, and those of Python, as for text > number
            raise Rejected(f"{self.text}: {_reason(error)}") from None

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


class Condition(Expression):
    """
    An expression that is true or false for each message: for `when` and `branch`.

    Raises:
        Rejected: when it is called and the value is neither, as a field is missing or cannot be compared.
    """

    __slots__ = ()

    def __call__(self, message: Any) -> bool:
        found = super().__call__(message)
        if found is True or found is False:
            return found
        what = "null: a field is missing, or cannot be compared" if found is None else f"{_word(found)}, not true or false"
        raise Rejected(f"{self.text} is {what}")


def _word(value: Any) -> str:
    return _WORDS.get(type(value), "a number")


def _field(message: Any, name: str, parts: Parts | None) -> Any:
    value = getattr(message, name)
    if name in ("subject", "reply_to"):
        return None if value is None else str(value)
    return dict(value) if name == "headers" else part(value, parts)


def _reason(error: Exception) -> str:
    """Return the reason of an error, without the content of the body."""
    function = getattr(error, "function_name", None)
    if function is not None:
        words = {
            "string": "a text",
            "number": "a number",
            "array": "a list",
            "object": "a table",
            "null": "a missing value",
            "str": "a text",
            "int": "a number",
        }
        actual = str(getattr(error, "actual_type", "this"))
        return f"{function}() cannot take {words.get(actual, actual)}"
    if isinstance(error, TypeError) and "not supported between" in str(error):
        return "a text and a number cannot be compared"
    if isinstance(error, ValueError) and str(error).startswith("the body"):
        return str(error)
    return f"it cannot be evaluated for this message ({type(error).__name__})"
