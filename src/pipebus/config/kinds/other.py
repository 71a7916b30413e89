"""Settings with any other annotation: pydantic reads and writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pipebus.config.kinds.base import ALL, Loading, Schema
from pipebus.config.kinds.containers import Anything
from pipebus.config.kinds.draft7 import from_pydantic
from pipebus.config.kinds.imports import Imports
from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import brief, is_interpolated
from pipebus.foreign.objects import text_of
from pipebus.values.validation import adapter_of

_NO_LOADING: Final = Loading(Imports(), {}, {})


class Other:
    """Whatever pydantic accepts for an annotation."""

    takes = ALL

    def __init__(self, hint: Any) -> None:
        self.adapter = adapter_of(hint)
        self.imports = _imports_by_itself(self.adapter.core_schema)

    def read(self, value: Any, loading: Loading) -> Any:
        from pydantic import ValidationError

        if self.imports:
            raise Bad(
                "pydantic's ImportString imports what it names, whether allowed or not, so this setting cannot be in a file"
            )
        plain = Anything().read(value, loading)
        try:
            if is_interpolated(value):  # not strict: an interpolated text may denote a number
                return self.adapter.validate_python(plain)
            return self.adapter.validate_json(json.dumps(plain, default=lambda time: time.isoformat()), strict=True)
        except ValidationError as error:
            details = [(tuple(one["loc"]), one["msg"]) for one in error.errors(include_url=False, include_input=False)]
            raise Bad("; ".join(f"{'.'.join(map(str, loc))}: {text}" if loc else text for loc, text in details)) from None
        except Exception as error:
            raise Bad(text_of(error)) from None

    def write(self, value: Any) -> Any:
        try:
            plain = self.adapter.dump_python(value, mode="json", warnings="error", exclude_none=True)
        except Exception as error:
            raise Unexportable(f"{brief(value)} cannot be written: {text_of(error)}") from None
        written = Anything().write(plain)
        if not self._is_read_as(written, value):
            raise Unexportable(f"{brief(value)} would come back from a file as something else")
        return written

    def _is_read_as(self, written: Any, value: Any) -> bool:
        try:
            return bool(self.read(written, _NO_LOADING) == value)
        except Exception:  # Bad, or an error of the class's own __eq__
            return False

    def schema(self) -> Schema:
        return from_pydantic(self.adapter)


def _imports_by_itself(schema: Any) -> bool:
    """
    True if pydantic would import what a value names (its `ImportString`).

    It looks at the schema that pydantic made, because an annotation can hide the type behind an alias or in a model.
    """
    if isinstance(schema, Mapping):
        return any(map(_imports_by_itself, schema.values()))
    if isinstance(schema, (list, tuple)):
        return any(map(_imports_by_itself, schema))
    return getattr(schema, "__name__", "") == "import_string" and getattr(schema, "__module__", "").startswith("pydantic")
