"""Settings with any other annotation: pydantic reads them as it reads JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.data import data
from pipebus.config.kinds.draft7 import Schema, from_pydantic
from pipebus.config.problems import Bad
from pipebus.values.validation import adapter_of


class Foreign(Reader):
    """Whatever pydantic accepts for an annotation, with texts for dates, paths and the like."""

    def __init__(self, hint: Any) -> None:
        self.adapter = adapter_of(hint)
        self.imports = _imports_by_itself(self.adapter.core_schema)

    def read(self, value: Any, loading: Loading) -> Any:
        if self.imports:
            raise Bad(
                "pydantic's ImportString imports what it names, whether allowed or not, so this setting cannot be in a file"
            )
        return self.adapter.validate_json(json.dumps(data(value), default=lambda time: time.isoformat()), strict=True)

    def schema(self) -> Schema:
        return from_pydantic(self.adapter.json_schema)


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
