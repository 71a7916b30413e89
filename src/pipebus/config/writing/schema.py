"""
JSON Schema of config files (draft-07, which editors for TOML understand), made from the annotations of the settings.

An interpolated text may become a number, so wherever a number, a duration or a flag is allowed, a text with `${` is too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pipebus.config import catalogue, vocabulary
from pipebus.config.kinds.objects import PATTERN
from pipebus.config.problems import Bad
from pipebus.config.settings import Setting, settings_of

Schema = dict[str, Any]

INTERPOLATED: Final[Schema] = {"type": "string", "pattern": r"\$\{"}
NAME: Final[Schema] = {"type": "string", "description": "Its name in figures, logs and tests."}
ON_ERROR_OF: Final = {"anyOf": [vocabulary.ON_ERROR["publish"].schema(), INTERPOLATED]}
INF: Final = float("inf")


def schema() -> Schema:
    """Return the schema of a file, with the filters of all installed packages."""
    filters = {name: _filter(name) for name in catalogue.names()}
    definitions = {
        "chain": {"type": "array", "items": {"$ref": "#/definitions/entry"}},
        "test": vocabulary.TEST.schema(),
        "entry": {
            "anyOf": [
                {"type": "string", "description": "A name: of a table in [filters], or of a filter that needs no settings."},
                {"$ref": "#/definitions/filter"},
                _fork("when", "A detour: these filters, then the rest of the chain."),
                _fork("branch", "A separate route: these filters; the rest of the chain is skipped."),
                _object({"filters": _ref("chain"), "on_error": ON_ERROR_OF}, ["filters"], "A pipeline inside this one."),
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
                "version": _interpolable({"const": vocabulary.VERSION, "description": "Version of this format."}),
                "bus": _object(_settings(vocabulary.BUS), description="The bus as a whole."),
                "filters": {"type": "object", "additionalProperties": _ref("filter"), "description": "Named filters."},
                "pipelines": _tables(_pipeline(), "Chains of filters for all subscriptions, in their order."),
                "subscriptions": _tables(_subscription(), "Who receives which messages, each in a mailbox of its own."),
                "every": _tables(
                    _object(_settings(vocabulary.EVERY), _required(vocabulary.EVERY)),
                    "Messages that are published at regular intervals.",
                ),
                "tests": _tables(_test(), "What `pipebus test` checks, in virtual time."),
            },
            ["version"],
        ),
        "definitions": definitions,
    }


def _filter(name: str) -> Schema:
    try:
        cls = catalogue.find(name)
    except Bad:
        return {"type": "object"}
    settings = settings_of(cls) if isinstance(cls, type) else {}
    called = {} if "name" in settings else {"name": dict(NAME)}
    properties = {"use": {"const": name}, **_settings(settings), **called}
    return _object(properties, ["use", *_required(settings)], catalogue.summary(cls))


def _by_use(filters: Mapping[str, Schema]) -> Schema:
    """
    Return the schema of the table of any filter.

    It has one `if` for each filter, so that an editor reports what is wrong for the one in `use`. Any other name may be one
    that the program or the file defines.
    """
    python = _object(
        {"use": {"const": "python"}, "target": {"type": "string", "pattern": PATTERN}},
        ["use", "target"],
        "A filter in Python. For a class, the other keys are its settings.",
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
            "match": _described(_ref("test"), "Only for these messages."),
            "on_error": _described(ON_ERROR_OF, "What happens when one of its filters fails."),
            "filters": _described(_ref("chain"), "The filters, in the order in which they run."),
        },
        ["filters"],
    )


def _subscription() -> Schema:
    size = _settings(vocabulary.MAILBOX)["size"]
    return _object(
        {
            **_settings(vocabulary.SUBSCRIPTION),
            "mailbox": _described({"anyOf": [size, _object(_settings(vocabulary.MAILBOX))]}, "Room for waiting messages."),
            "filters": _described(
                _ref("chain"), "The delivery chain of this subscription alone, in the order in which it runs."
            ),
        },
        _required(vocabulary.SUBSCRIPTION),
    )


def _test() -> Schema:
    publish = _object(_settings(vocabulary.PUBLISHING), _required(vocabulary.PUBLISHING))
    received = _object({name: {} for name in vocabulary.RECEIVED})
    handlers = _object(_settings(vocabulary.HANDLING))
    stand_in = {"anyOf": [{"const": "pass"}, _object(_settings(vocabulary.FILTERING))]}
    return _object(
        {
            "name": {"type": "string", "description": "Its name in the results."},
            "publish": _described(_one_or_many(publish), "What is published, in this order."),
            "advance": _described(
                _settings(vocabulary.PUBLISHING)["after"], "Time that passes after the last of these messages."
            ),
            "replace": _object(
                {
                    "handlers": _described(_by_name(handlers), "By the subscription's name; * for all others."),
                    "filters": _described(_by_name(stand_in), "By the filter's name."),
                },
                description="What replaces handlers and filters.",
            ),
            "expect": _object(
                {
                    **_settings(vocabulary.EXPECTING),
                    "received": _described(
                        _by_name(_one_or_many(received)), "What each subscription handled: the fields that matter."
                    ),
                },
                description="The expected result.",
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
    """Return a schema that also accepts a text with `${…}` for each value that is not just any text."""
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
    if found.get("pattern") == PATTERN:  # names of Python objects cannot be interpolated
        return found
    if found.get("type") in ("number", "integer", "boolean") or "enum" in found or "const" in found or strict:
        texts: Schema = {key: found.pop(key) for key in ("description", "default") if key in found}
        return {"anyOf": [found, dict(INTERPOLATED)], **texts}
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


def _described(schema: Schema, description: str) -> Schema:
    """Add a description, which draft-07 ignores next to `$ref`."""
    return {**({"allOf": [schema]} if "$ref" in schema else schema), "description": description}


def _fork(word: str, description: str) -> Schema:
    return _object({word: _ref("test"), "filters": _ref("chain")}, [word, "filters"], description)


def _key(name: str) -> str:
    """Return the key of a filter's definition. Names of entry points may have characters that a reference cannot."""
    return f"filter-{name}" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else f"filter-{name.encode().hex()}"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}
