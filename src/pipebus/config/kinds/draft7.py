"""JSON Schema as editors for TOML understand it: draft-07. pydantic writes the one of 2020-12."""

from __future__ import annotations

from typing import Any


def from_pydantic(adapter: Any) -> dict[str, Any]:
    """
    Return the schema of a `pydantic.TypeAdapter` in draft-07, with its definitions written in place.

    A type without a schema, and the inside of a definition that refers to itself, become `{}`, which accepts anything.
    """
    try:
        schema = adapter.json_schema(mode="validation")
    except Exception:
        return {}
    definitions = schema.pop("$defs", {})
    found: dict[str, Any] = _plain(schema, definitions, ())
    return found


def _plain(schema: Any, definitions: dict[str, Any], inside: tuple[str, ...]) -> Any:
    if isinstance(schema, list):
        return [_plain(one, definitions, inside) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].rpartition("/")[2]
        if name in inside or name not in definitions:
            return {}
        return _plain(definitions[name], definitions, (*inside, name))
    found: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "prefixItems":  # a tuple, by position
            found["items"] = _plain(value, definitions, inside)
            if schema.get("items") is False or "items" not in schema:
                found["additionalItems"] = False
        elif key in ("default", "const", "enum", "examples"):
            found[key] = value  # data, not schemas
        elif key not in ("discriminator", "title") and not (key == "items" and "prefixItems" in schema):
            found[key] = (
                {name: _plain(one, definitions, inside) for name, one in value.items()}
                if key in ("properties", "patternProperties")
                else _plain(value, definitions, inside)
            )
    return found
