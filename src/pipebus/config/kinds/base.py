"""How a file writes a value: pydantic reads it, and describes it to editors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import core_schema

from pipebus.config.kinds.data import Data, nameless, same, written
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.kinds.imports import Everything, Imports
from pipebus.config.kinds.objects import name_of, short_name_of
from pipebus.config.kinds.refusals import bad_of
from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import brief
from pipebus.foreign.objects import text_of
from pipebus.values.validation import adapter_of


@dataclass(eq=False)
class Loading:
    """What reading may use: the imports that are allowed, and the objects that the program hands in."""

    imports: Imports
    handlers: Mapping[str, Any]
    filters: Mapping[str, Any]


EVERYTHING: Final = Loading(Everything(), {}, {})


class Reader:
    """
    Metadata of an `Annotated` type that reads what pydantic has no type for: `Annotated[Any, Function()]`.

    `Loading` is the context of the validation.
    """

    def read(self, value: Any, loading: Loading) -> Any:
        """
        Return the Python value for a value of a file.

        Raises:
            Bad: the value is wrong.
        """
        raise NotImplementedError

    def schema(self) -> Schema:
        return {}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(lambda value, info: self.read(value, info.context))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Schema:
        return self.schema()


@dataclass(eq=False)
class Setting:
    """
    One key of a table.

    Args:
        type: The type that pydantic validates a file's values into.
        hint: The annotation that the type was made from, if it is another one.
        doc: A sentence for editors and `pipebus filters`.
    """

    type: Any
    hint: Any = None
    required: bool = False
    default: Any = None
    doc: str = ""

    @functools.cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type, config=ConfigDict(strict=True))

    def read(self, value: Any, loading: Loading) -> Any:
        """
        Return the Python value for a value of a file.

        Raises:
            Bad: the value is wrong.
        """
        try:
            return self.adapter.validate_python(value, context=loading)
        except ValidationError as error:
            raise bad_of(value, error) from None
        except Exception as error:  # of a validator of the user's
            raise Bad(text_of(error)) from None

    def write(self, value: Any) -> Any:
        """
        Return the value of a file for a Python value. Reading it gives an equal value.

        Raises:
            Unexportable: a file cannot hold it.
        """
        problems: list[str] = []
        ways = (short_name_of, name_of, lambda found: {"python": name_of(found)}, None)
        for name_by in (nameless,) if self.type == Data else ways:
            try:
                found = written(value, name_by) if name_by is not None else written(self._as_json(value), nameless)
                again = self.read(found, EVERYTHING)
            except Unexportable as error:
                problems.append(str(error))
            except Bad as bad:
                problems.append(f"{brief(value)}: {bad.text or 'a file cannot hold it'}")
            else:
                if same(again, value):
                    return found if name_by is None else written(again, name_by)  # a duration is a float
                problems.append(f"{brief(value)} ({type(value).__name__}) is not data that a file can hold")
        raise Unexportable(problems[0])

    def _as_json(self, value: Any) -> Any:
        try:
            return adapter_of(self.hint or self.type).dump_python(value, mode="json", warnings="error", exclude_none=True)
        except Exception as error:
            raise Unexportable(f"{brief(value)} cannot be written: {text_of(error)}") from None
