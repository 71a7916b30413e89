"""
JSON Schema (draft-07, which editors for TOML understand) of config files, made of the settings' own annotations.

A text that is interpolated may stand for a number: so wherever a number, a duration or a flag is due, a text with `${` will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipebus.config import catalogue
from pipebus.config.cases import EXPECTING, FILTERING, HANDLING, OUTCOMES, PUBLISHING, RECEIVED
from pipebus.config.catalogue import Setting
from pipebus.config.imports import PATTERN
from pipebus.config.problems import Bad
from pipebus.config.vocabulary import BUS, EVERY, HANDLER, MAILBOX, ON_ERROR, SUBSCRIPTION, TEST, VERSION

Schema = dict[str, Any]

INTERPOLATED: Final[Schema] = {"type": "string", "pattern": r"\$\{"}


def schema() -> Schema:
    """Of the whole file, with the filters of all packages that are installed."""
    filters = {name: _filter(name) for name in catalogue.names()}
    definitions = {
        "chain": {"type": "array", "items": {"$ref": "#/definitions/entry"}},
        "test": TEST.schema(),
        "entry": {
            "anyOf": [
                {"type": "string", "description": "A name: of [filters], of a filter that needs no settings."},
                {"$ref": "#/definitions/filter"},
                _fork("when", "A detour: these filters, then the rest."),
                _fork("branch", "A road of its own: these filters, and later ones are skipped."),
                _object(
                    {"filters": _ref("chain"), "on_error": ON_ERROR["publish"].schema()}, ["filters"], "A pipeline in this one."
                ),
            ]
        },
        "filter": _by_use(filters),
        **{f"filter-{name}": one for name, one in filters.items()},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "pipebus",
        "description": "A message bus: its filter chains, subscriptions, schedules and tests.",
        **_object(
            {
                "version": {"const": VERSION},
                "bus": _object(_settings(BUS)),
                "filters": {"type": "object", "additionalProperties": _ref("filter"), "description": "Named filters."},
                "pipelines": _tables(_pipeline()),
                "subscriptions": _tables(_subscription()),
                "every": _tables(_object(_settings(EVERY), _required(EVERY))),
                "tests": _tables(_test()),
            },
            ["version"],
        ),
        "definitions": definitions,
    }


def _filter(name: str) -> Schema:
    """One filter's table."""
    try:
        cls = catalogue.find(name)
    except Bad:
        return {"type": "object"}
    settings = catalogue.settings_of(cls) if isinstance(cls, type) else {}
    return _object({"use": {"const": name}, **_settings(settings)}, ["use", *_required(settings)], catalogue.summary(cls))


def _by_use(filters: Mapping[str, Schema]) -> Schema:
    """
    The table of any filter. One `if` for each, so that an editor tells what is wrong with the one that is meant; and what is
    neither of these is a name that only the program knows, or the file itself.
    """
    python = _object(
        {"use": {"const": "python"}, "target": {"type": "string", "pattern": PATTERN}},
        ["use", "target"],
        "A filter in Python. Of a class, the other keys are its settings.",
    )
    python["additionalProperties"] = True
    known = {**filters, "python": python}
    return {
        "type": "object",
        "properties": {"use": {"anyOf": [{"enum": [*known]}, {"type": "string"}], "description": "Which filter."}},
        "required": ["use"],
        "allOf": [
            {
                "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
                "then": python if name == "python" else _ref(f"filter-{name}"),
            }
            for name in known
        ],
    }


def _pipeline() -> Schema:
    return _object(
        {
            "at": {"enum": ["publish", "delivery"], "default": "publish", "description": "Where the chain runs."},
            "match": {**_ref("test"), "description": "Only for these messages."},
            "on_error": {**ON_ERROR["publish"].schema(), "description": "What becomes of an error in one of its filters."},
            "filters": _ref("chain"),
        },
        ["filters"],
    )


def _subscription() -> Schema:
    size = _settings(MAILBOX)["size"]
    return _object(
        {
            **_settings(SUBSCRIPTION),
            "handler": {"type": "string", "description": f"{HANDLER[0].upper()}{HANDLER[1:]}."},
            "mailbox": {"anyOf": [size, _object(_settings(MAILBOX))], "description": "Room for waiting messages."},
            "filters": _ref("chain"),
        },
        _required(SUBSCRIPTION),
    )


def _test() -> Schema:
    publish = _object(_settings(PUBLISHING), _required(PUBLISHING))
    received = _object({name: {} for name in RECEIVED})
    outcome = {"enum": list(OUTCOMES)}
    return _object(
        {
            "name": {"type": "string"},
            "publish": {"anyOf": [publish, {"type": "array", "items": publish}]},
            "advance": _settings(PUBLISHING)["after"],
            "replace": _object(
                {
                    "handlers": {"type": "object", "additionalProperties": _object(_settings(HANDLING))},
                    "filters": {
                        "type": "object",
                        "additionalProperties": {"anyOf": [{"const": "pass"}, _object(_settings(FILTERING))]},
                    },
                }
            ),
            "expect": _object(
                {
                    **_settings(EXPECTING),
                    "outcome": {"anyOf": [outcome, {"type": "array", "items": outcome}]},
                    "received": {
                        "type": "object",
                        "additionalProperties": {"anyOf": [received, {"type": "array", "items": received}]},
                    },
                }
            ),
        },
        ["name", "publish", "expect"],
    )


# --- pieces ------------------------------------------------------------------------------------------------------------


def _settings(settings: Mapping[str, Setting]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for name, one in settings.items():
        schema = _interpolable(one.kind.schema())
        if one.doc:
            schema["description"] = one.doc.replace("`", "")
        if not one.required and isinstance(one.default, (str, bool, int, float)):
            schema["default"] = one.default
        found[name] = schema
    return found


def _interpolable(schema: Schema) -> Schema:
    """A text with `${…}` may stand for it."""
    if schema.get("type") in ("number", "integer", "boolean") or "enum" in schema:
        return {"anyOf": [schema, dict(INTERPOLATED)]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [one if one.get("type") == "string" else _flat(one) for one in schema["anyOf"]]}
    return dict(schema)


def _flat(schema: Schema) -> Schema:
    return schema if "type" not in schema or schema["type"] in ("object", "array") else _interpolable(schema)


def _required(settings: Mapping[str, Setting]) -> list[str]:
    return [name for name, one in settings.items() if one.required]


def _object(properties: Mapping[str, Schema], required: list[str] | None = None, description: str = "") -> Schema:
    found: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if required:
        found["required"] = required
    if description:
        found["description"] = description.replace("`", "")
    return found


def _tables(inner: Schema) -> Schema:
    return {"type": "array", "items": inner}


def _fork(word: str, description: str) -> Schema:
    return _object({word: _ref("test"), "filters": _ref("chain")}, [word, "filters"], description)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}
