"""Find fields by name at any depth: the part of `Redact` and `Log` that knows which fields are meant."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.objects import plain_text, shown

Tables = tuple[str, ...]
"""The names of the tables around a field, in lower case, from "body" or "headers" on. Lists have no name."""


HIDDEN: Final = "[redacted]"
"""What is shown in place of a hidden value."""


class FieldNames:
    """
    Args:
        names: "email": a field of this name anywhere; "author.email": in a table of the name "author". Case does not matter.
        setting: The setting that has the names, for errors, as in `Redact.names`.

    Raises:
        PipelineError: these are not names. One that could never be found is an error, because the secret would get through.
    """

    def __init__(self, names: Any, setting: str) -> None:
        self.names: tuple[str, ...] = ()
        if not isinstance(names, str):
            try:
                self.names = tuple(map(plain_text, names))
            except TypeError:
                self.names = (names,)
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in self.names):
            example = [names] if isinstance(names, str) and names else ["email", "card"]
            raise PipelineError(f"{setting}={shown(names)}: it is a list of names, as in {example}")
        for name in self.names:
            if any(character in name for character in "[]*"):
                raise PipelineError(
                    f"{setting}: {name!r} is not a name; a name is found at any depth, also in lists, so write the last part "
                    'of the path, as in "email", or "author.email" for the one in a table "author"'
                )
        low = [name.lower() for name in self.names]
        self._names = frozenset(low)
        self._paths = tuple(tuple(name.split(".")) for name in low if "." in name)

    def include(self, name: object, around: Tables) -> bool:
        """Whether a field of this name, in these tables, is meant."""
        low = lower(name)
        return low in self._names or any((*around, low)[-len(path) :] == path for path in self._paths)


def lower(name: object) -> str:
    """The key of a table as a name in lower case, as JSON will have it."""
    if isinstance(name, enum.Enum):
        name = name.value
    if isinstance(name, (bytes, bytearray)):
        name = name.decode("utf-8", "replace")
    return str(plain_text(name)).lower()


def fields_of(value: Any) -> Mapping[Any, Any] | None:
    """A table, or the fields of a named tuple, model, dataclass or struct as one; None: it has no fields."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, type):
        return None
    if isinstance(value, tuple):
        return dict(value._asdict()) if hasattr(value, "_asdict") else None
    if (dump := getattr(value, "model_dump", None)) is not None:
        return dict(dump())
    for attribute in ("__dataclass_fields__", "__struct_fields__"):
        if (names := getattr(value, attribute, None)) is not None:
            return {name: getattr(value, name) for name in names}
    return None
