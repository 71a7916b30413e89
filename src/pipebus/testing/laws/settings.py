"""The laws on what a filter says about itself; no message is needed to try them."""

import dataclasses
import json
from contextlib import suppress
from typing import Any, get_type_hints

from pipebus.bus import explain
from pipebus.foreign.objects import text_of
from pipebus.pipeline import places, recognise
from pipebus.testing.laws.case import Case, Problems
from pipebus.testing.laws.making import fields_of


def describes_itself(case: Case) -> Problems:
    """`bus.describe()` can show it, as JSON."""
    for node in recognise.nodes((case.tested.make(),), places.caller(), "check_filter"):
        try:
            json.dumps(explain.describe_node(node), allow_nan=False)
        except Exception as error:
            yield f"its description is not JSON: {text_of(error)}"


def settings_round_trip(case: Case) -> Problems:
    """The fields of a dataclass have the types that they declare, and a filter made from them has the same settings."""
    for step in case.tested.steps:
        if dataclasses.is_dataclass(step.filter) and not isinstance(step.filter, type):
            yield from _round_trip(step.filter)


def _round_trip(filter: Any) -> Problems:
    from pydantic import ConfigDict, TypeAdapter, create_model

    name = type(filter).__name__
    given = fields_of(filter)
    if given is None:
        return
    try:
        again = type(filter)(**given)
    except Exception as error:
        yield f"{name} cannot be made from its own settings {given!r}: {text_of(error)}"
        return
    if explain.settings(again) != explain.settings(filter):
        yield f"{name} made from its own settings has others: {explain.settings(filter)} became {explain.settings(again)}"
        return
    hints: dict[str, Any] = {}
    with suppress(Exception):
        hints = get_type_hints(type(filter), include_extras=True)
    try:
        fields: dict[str, Any] = {key: (hints.get(key, Any), ...) for key in given}
        model = create_model(f"{name}Settings", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
        found = model.model_validate(given)
    except Exception as error:
        yield f"its settings are not what its fields declare: {text_of(error)}"
        return
    if any(hasattr(value, "get_secret_value") for one in given.values() for value in (one if isinstance(one, list) else [one])):
        return  # a secret has no JSON form
    try:
        read = model.model_validate_json(TypeAdapter(model).dump_json(found))
    except Exception:
        return  # a setting has no JSON form, such as a function: a config file names it instead
    kept = type(filter)(**{key: getattr(read, key) for key in given})
    if explain.settings(kept) != explain.settings(filter):
        yield f"its settings came back from JSON as {explain.settings(kept)}, and were {explain.settings(filter)}"
