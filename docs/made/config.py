"""Tables of a config file and settings of filters, from the models that read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from made.api import directive
from made.markdown import rst, table
from pipebus.config import catalogue, vocabulary
from pipebus.config.kinds.draft7 import Schema, from_pydantic
from pipebus.config.sections import Section
from pipebus.config.settings import table_of

LISTED: Final = 3
"""Most keys of a table inside a table that are named where it is used. Larger ones have a table of their own."""
TEXTS: Final = (
    ("us|ms", 'time: `5` or `"5s"`'),
    ("KiB", 'size: `65536` or `"64KiB"`'),
    (":[A-Za-z_]", '`"module:name"`'),
)
"""A part of a pattern, and what a text that matches it is."""


def table_of_keys(name: str, _: str) -> str:
    """The keys of a table of a config file."""
    rows = [
        (f"`{key}`", words(one), default(one, required), meaning(one.get("description", "")))
        for key, one, required in keys_of(getattr(vocabulary, name))
    ]
    return table(("key", "type", "default", "meaning"), rows)


def one_filter(name: str, _: str) -> str:
    """A filter, and the keys of its table in a file."""
    word = catalogue.word(name)
    model = table_of(catalogue.BUILT_IN[word])
    rows = {key: (f"`{key}`", words(one), default(one, required)) for key, one, required in keys_of(model) if key != "use"}
    keys = table(("key", "type", "default"), [*(rows | {"name": ("`name`", "text", f'`"{name}"`')}).values()])
    return f'{rst(directive(f"pipebus.filters.{name}", members=False))}\n\nIn a file, with `use = "{word}"`:\n\n{keys}'


def keys_of(model: type[Section]) -> Iterator[tuple[str, Schema, bool]]:
    """Each key, its schema, and whether it must be given."""
    schema = from_pydantic(model.model_json_schema)
    for key, one in schema["properties"].items():
        yield key, one, key in schema.get("required", ())


def default(schema: Schema, required: bool) -> str:
    found = schema.get("default")
    return "*needed*" if required else "" if found is None or found in ([], {}) else f"`{json.dumps(found)}`"


def meaning(text: str) -> str:
    """A description, with the examples in it as code."""
    return re.sub(r'("[^" ]*[.:>/]+[^" ]*"|\{ [^}]* \})', r"`\1`", text)


def words(schema: Schema) -> str:
    """The type of a value."""
    if "allOf" in schema or schema.get("chain") or schema.get("$ref", "").endswith("chain"):
        return "list of [entries](#entries-of-filters)"
    if "anyOf" in schema:
        found = dict.fromkeys(text for one in schema["anyOf"] if (text := words(one)))
        text = "any data" if "any data" in found else " or ".join(found)
        return re.sub(r"(?:whole )?number\s≥\s0 or ((?:time|size):)", r"\1", text)
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    known = {"string": text_of, "array": list_of, "object": object_of, "integer": number_of, "number": number_of}
    kind = schema.get("type", "")
    return known[kind](schema) if kind in known else {"boolean": "true or false", "null": ""}.get(kind, "any data")


def text_of(schema: Schema) -> str:
    pattern = schema.get("pattern", "")
    if pattern == r"\$\{":
        return ""  # `${env:X}` may replace any value
    return next((text for part, text in TEXTS if part in pattern), "text")


def number_of(schema: Schema) -> str:
    least = f"\N{NO-BREAK SPACE}≥\N{NO-BREAK SPACE}{schema['minimum']:g}" if "minimum" in schema else ""
    return ("whole number" if schema["type"] == "integer" else "number") + least


def list_of(schema: Schema) -> str:
    inner = words(schema.get("items", {}))
    if inner.startswith("table"):
        return "list of tables"
    return "list" if inner == "any data" else f"list of {inner}"


def object_of(schema: Schema) -> str:
    keys: list[Any] = list(schema.get("properties", {}))
    if keys in (["expr"], ["python"]):
        return f"`{{ {keys[0]} = {json.dumps({'expr': '…', 'python': 'module:name'}[keys[0]], ensure_ascii=False)} }}`"
    if keys:
        return "table" if len(keys) > LISTED else "table: " + ", ".join(f"`{key}`" for key in keys)
    more = schema.get("additionalProperties")
    kind = words(more) if isinstance(more, dict) and more else "any data"
    return "table" if kind == "any data" else f"table of names to {kind}"
