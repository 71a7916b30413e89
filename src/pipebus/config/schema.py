"""
JSON Schema (draft-07, which editors for TOML understand) of config files, made of the settings' own annotations.

A text that is interpolated may stand for a number: so wherever a number, a duration or a flag is due, a text with `${` will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pipebus.config import catalogue
from pipebus.config.cases import EXPECTING, FILTERING, HANDLING, PUBLISHING, RECEIVED
from pipebus.config.catalogue import Setting
from pipebus.config.imports import PATTERN
from pipebus.config.problems import Bad
from pipebus.config.vocabulary import BUS, EVERY, MAILBOX, ON_ERROR, SUBSCRIPTION, TEST, VERSION

Schema = dict[str, Any]

INTERPOLATED: Final[Schema] = {"type": "string", "pattern": r"\$\{"}
NAME: Final[Schema] = {"type": "string", "description": "What it is called in figures, logs and tests."}
ON_ERROR_OF: Final = {"anyOf": [ON_ERROR["publish"].schema(), INTERPOLATED]}
INF: Final = float("inf")


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
                _object({"filters": _ref("chain"), "on_error": ON_ERROR_OF}, ["filters"], "A pipeline in this one."),
            ]
        },
        "filter": _by_use(filters),
        **{_key(name): one for name, one in filters.items()},
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "pipebus",
        "description": "A message bus: its filter chains, subscriptions, schedules and tests.",
        **_object(
            {
                "version": _interpolable({"const": VERSION, "description": "Of this format."}),
                "bus": _object(_settings(BUS), description="The bus as a whole."),
                "filters": {"type": "object", "additionalProperties": _ref("filter"), "description": "Named filters."},
                "pipelines": _tables(_pipeline(), "Chains of filters for all subscriptions, in their order."),
                "subscriptions": _tables(_subscription(), "Who gets which messages, each in a mailbox of its own."),
                "every": _tables(_object(_settings(EVERY), _required(EVERY)), "What is published again and again."),
                "tests": _tables(_test(), "What `pipebus test` proves, in virtual time."),
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
    called = {} if "name" in settings else {"name": dict(NAME)}
    properties = {"use": {"const": name}, **_settings(settings), **called}
    return _object(properties, ["use", *_required(settings)], catalogue.summary(cls))


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
                "then": python if name == "python" else _ref(_key(name)),
            }
            for name in known
        ],
    }


def _pipeline() -> Schema:
    return _object(
        {
            "at": _interpolable(
                {"enum": ["publish", "delivery"], "default": "publish", "description": "Where the chain runs."}
            ),
            "match": _told(_ref("test"), "Only for these messages."),
            "on_error": _told(ON_ERROR_OF, "What becomes of an error in one of its filters."),
            "filters": _told(_ref("chain"), "They run in this order."),
        },
        ["filters"],
    )


def _subscription() -> Schema:
    size = _settings(MAILBOX)["size"]
    return _object(
        {
            **_settings(SUBSCRIPTION),
            "mailbox": _told({"anyOf": [size, _object(_settings(MAILBOX))]}, "Room for waiting messages."),
            "filters": _told(_ref("chain"), "The delivery chain of this subscription alone, in this order."),
        },
        _required(SUBSCRIPTION),
    )


def _test() -> Schema:
    publish = _object(_settings(PUBLISHING), _required(PUBLISHING))
    received = _object({name: {} for name in RECEIVED})
    handlers = _object(_settings(HANDLING))
    stand_in = {"anyOf": [{"const": "pass"}, _object(_settings(FILTERING))]}
    return _object(
        {
            "name": {"type": "string", "description": "What it is called where results are told."},
            "publish": _told(_one_or_many(publish), "What is published, in this order."),
            "advance": _told(_settings(PUBLISHING)["after"], "Time that passes after the last of them."),
            "replace": _object(
                {
                    "handlers": _told(_by_name(handlers), "By the subscription's name; * for all others."),
                    "filters": _told(_by_name(stand_in), "By the filter's name."),
                },
                description="What stands in for handlers and filters.",
            ),
            "expect": _object(
                {
                    **_settings(EXPECTING),
                    "received": _told(
                        _by_name(_one_or_many(received)), "What each subscription handled, as far as it matters."
                    ),
                },
                description="What has to come of it.",
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
        if not one.required and isinstance(one.default, (str, bool, int, float)) and one.default not in (INF, -INF):
            schema["default"] = one.default
        found[name] = schema
    return found


def _interpolable(schema: Schema) -> Schema:
    """A text with `${…}` may stand for each value of it that is more than any text."""
    found = dict(schema)
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = _interpolable(found[key])
        elif isinstance(found.get(key), list):
            found[key] = [_interpolable(one) for one in found[key]]
    if "properties" in found:
        found["properties"] = {name: _interpolable(one) for name, one in found["properties"].items()}
    for key in ("anyOf", "oneOf", "allOf"):
        if key in found:
            found[key] = [_interpolable(one) for one in found[key]]
    strict = found.get("type") == "string" and found.keys() & {"pattern", "format", "minLength", "maxLength"}
    if found.get("pattern") == PATTERN:  # names of Python objects may not be put together
        return found
    if found.get("type") in ("number", "integer", "boolean") or "enum" in found or "const" in found or strict:
        told: Schema = {key: found.pop(key) for key in ("description", "default") if key in found}
        return {"anyOf": [found, dict(INTERPOLATED)], **told}
    return found


def _required(settings: Mapping[str, Setting]) -> list[str]:
    return [name for name, one in settings.items() if one.required]


def _object(properties: Mapping[str, Schema], required: list[str] | None = None, description: str = "") -> Schema:
    found: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    if required:
        found["required"] = required
    if description:
        found["description"] = description.replace("`", "")
    return found


def _tables(inner: Schema, description: str) -> Schema:
    return {"type": "array", "items": inner, "description": description.replace("`", "")}


def _one_or_many(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def _by_name(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def _told(schema: Schema, description: str) -> Schema:
    """With a description, which draft-07 does not read beside `$ref`."""
    return {**({"allOf": [schema]} if "$ref" in schema else schema), "description": description}


def _fork(word: str, description: str) -> Schema:
    return _object({word: _ref("test"), "filters": _ref("chain")}, [word, "filters"], description)


def _key(name: str) -> str:
    """Of a filter's definition. Entry points may be called by any text, references to them may not."""
    return f"filter-{name}" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else f"filter-{name.encode().hex()}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}
