"""
JSON Schema as editors for TOML understand it: draft-07. pydantic writes the one of 2020-12.

An interpolated text may become a number, so wherever something else than any text is allowed, a text with `${` is too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pipebus.config.wording import INTERPOLATED

Schema = dict[str, Any]
"""JSON Schema, draft-07."""


class _Generate(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (as pydantic declares it)

    def nullable_schema(self, schema: Any) -> Schema:
        return self.generate_inner(schema["schema"])  # a file has no null

    def generate_inner(self, schema: Any) -> Schema:
        found = super().generate_inner(schema)
        no_text = found.get("type") in ("number", "integer", "boolean") or found.keys() & {"enum", "const"}
        if no_text or (found.get("type") == "string" and found.keys() & {"pattern", "format", "minLength", "maxLength"}):
            return {"anyOf": [found, dict(INTERPOLATED)]}
        return found


def from_pydantic(json_schema: Callable[..., Schema]) -> Schema:
    """
    Return the schema of a model or `pydantic.TypeAdapter` in draft-07, with its definitions written in place.

    A type without a schema, and the inside of a definition that refers to itself, become `{}`, which accepts anything.
    """
    try:
        schema = json_schema(mode="validation", schema_generator=_Generate)
    except Exception:
        return {}
    found: Schema = _plain(schema, schema.pop("$defs", {}), ())
    return found


def _plain(schema: Any, definitions: Schema, inside: tuple[str, ...]) -> Any:
    if isinstance(schema, list):
        return [_plain(one, definitions, inside) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].rpartition("/")[2]
        here = {key: value for key, value in schema.items() if key == "description"}
        return (
            {} if name in inside or name not in definitions else _plain(definitions[name] | here, definitions, (*inside, name))
        )
    found: Schema = {}
    for key, value in schema.items():
        if key == "chain":  # a chain contains chains
            return {"allOf": [{"$ref": "#/definitions/chain"}], "description": schema.get("description", "")}
        if key == "prefixItems":  # a tuple, by position
            found["items"] = _plain(value, definitions, inside)
            if schema.get("items") is False or "items" not in schema:
                found["additionalItems"] = False
        elif key in ("default", "const", "enum", "examples"):  # data, not schemas
            found |= {} if value is None or value in ({}, []) else {key: value}
        elif key in ("properties", "patternProperties"):
            found[key] = {name: _plain(one, definitions, inside) for name, one in value.items()}
        elif key not in ("discriminator", "title") and not (key == "items" and "prefixItems" in schema):
            found[key] = _plain(value, definitions, inside)
    return found
