"""JSON Schema of config files: pydantic's, of the types of all settings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipebus.config import catalogue, vocabulary
from pipebus.config.kinds.draft7 import Schema, from_pydantic
from pipebus.config.kinds.objects import PATTERN
from pipebus.config.problems import Bad
from pipebus.config.sections import Section
from pipebus.config.settings import table_of
from pipebus.config.wording import INTERPOLATED


def schema() -> Schema:
    """Return the schema of a file, with the filters of all installed packages."""
    filters = {name: _filter(name) for name in catalogue.names()}
    file = _table(vocabulary.File)
    properties = file["properties"]
    properties["version"]["anyOf"] = [{"const": vocabulary.VERSION}, INTERPOLATED]
    properties["filters"]["additionalProperties"] = _ref("filter")
    entry = [
        {"type": "string", "description": "A name: of a table in [filters], or of a filter that needs no settings."},
        _ref("filter"),
        *(_table(model) for model in (vocabulary.When, vocabulary.Branch, vocabulary.Switch, vocabulary.Inner)),
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "pipebus",
        **file,
        "definitions": {
            "chain": {"type": "array", "items": _ref("entry")},
            "entry": {"anyOf": entry},
            "filter": _by_use(filters),
            **{_key(name): one for name, one in filters.items()},
        },
    }


def _filter(name: str) -> Schema:
    try:
        cls = catalogue.find(name)
    except Bad:
        return {"type": "object"}
    table = _table(table_of(cls), catalogue.summary(cls))
    own = {"use": {"const": name}, "name": {"type": "string", "description": "Its name in figures, logs and tests."}}
    described = {key: one for key, one in table["properties"].items() if key not in own or "description" in one}
    return {**table, "properties": {**own, **described}, "required": ["use", *table.get("required", ())]}


def _by_use(filters: Mapping[str, Schema]) -> Schema:
    """
    Return the schema of the table of any filter.

    It has one `if` for each filter, so that an editor reports what is wrong for the one in `use`. Any other name may be one
    that the program or the file defines.
    """
    python = {
        "type": "object",
        "properties": {"use": {"const": "python"}, "target": {"type": "string", "pattern": PATTERN}},
        "required": ["use", "target"],
        "description": "A filter in Python. For a class, the other keys are its settings.",
    }
    known = {**filters, "python": python}
    return {
        "type": "object",
        "properties": {"use": {"anyOf": [{"enum": [*known]}, {"type": "string"}], "description": "Which filter."}},
        "required": ["use"],
        "allOf": [
            {
                "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
                "then": python if name == "python" else _ref(_key(name)),
            }
            for name in known
        ],
    }


def _table(model: type[Section], description: str = "") -> Schema:
    """Return the schema of a table."""
    found = from_pydantic(model.model_json_schema)
    texts = {"description": (description or found.get("description", "")).replace("`", "")}
    return {**found, **texts}


def _key(name: str) -> str:
    """Return the key of a filter's definition. Names of entry points may have characters that a reference cannot."""
    return f"filter-{name}" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else f"filter-{name.encode().hex()}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}
