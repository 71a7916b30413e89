"""Models of the tables of a file, and what a table may hold in a place of its own form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from pipebus.config.problems import BROKEN, Bad, Detail
from pipebus.config.wording import INTERPOLATED, choice


class Section(BaseModel):
    """
    A table of a file. `BROKEN` takes the place of each value about which a problem has been reported.

    Fields that are excluded are not listed in errors.
    """

    model_config = ConfigDict(
        strict=True, defer_build=True, protected_namespaces=(), json_schema_extra={"additionalProperties": False}
    )

    @classmethod
    def fields(cls) -> Iterator[tuple[str, str, FieldInfo]]:
        """Yield each key as a file writes it, the name of its attribute, and its field."""
        for name, field in cls.model_fields.items():
            yield field.alias or name, name, field

    def values(self, given: bool = False) -> dict[str, Any]:
        """Return the values by key; only those that the file gives, if asked."""
        return {
            key: getattr(self, name)
            for key, name, field in self.fields()
            if not field.exclude and (not given or name in self.model_fields_set)
        }

    @classmethod
    def unknown(cls, key: str, known: list[str]) -> str:
        """Return the sentence about an unknown key."""
        return f"unknown key {json.dumps(key, ensure_ascii=False)}{choice(key, known)}"

    @model_validator(mode="wrap")
    @classmethod
    def _check_keys(cls, data: Any, handler: Any) -> Any:
        if not isinstance(data, dict):
            return data if data is BROKEN else handler(data)
        fields = {key: field for key, _, field in cls.fields()}
        found = handler(data)
        known = [key for key, field in fields.items() if not field.exclude]
        unknown = [key for key in data if key not in fields]
        if unknown and cls.model_config.get("extra") != "allow":
            raise Bad("", [Detail((key,), cls.unknown(key, known), True) for key in unknown])
        return found

    @field_validator("*", mode="wrap")
    @classmethod
    def _pass_broken(cls, value: Any, handler: Any) -> Any:
        return value if value is BROKEN else handler(value)


@dataclass(frozen=True)
class Form:
    """
    Metadata of a type whose values have one of these types in a file, or are a word for the empty table.

    Args:
        text: What the value has to be.
    """

    text: str
    types: tuple[type, ...] = (dict,)
    word: str = ""

    def check(self, value: Any, handler: Any) -> Any:
        if value is not BROKEN and type(value) not in self.types and value != self.word:
            raise Bad(f"it has to be {self.text}")
        return value if value is BROKEN else handler({} if self.word and value == self.word else value)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {"anyOf": [{"const": self.word}, INTERPOLATED, handler(schema)]} if self.word else handler(schema)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_wrap_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class Tables:
    """
    Metadata of a list of tables.

    Args:
        form: How a file writes one.
        key: The key, if each of them has a header.
    """

    form: str
    key: str = ""

    def check(self, value: Any) -> Any:
        if isinstance(value, dict):
            if not self.key:
                return [value]
            raise Bad("", [Detail((), f"{self.key} is one table; write [[{self.key}]], with double brackets", True)])
        if not isinstance(value, list):
            many = f"tables, as in {self.form}" if self.key else f"a table, as in {self.form}, or a list of such"
            raise Bad(f"it has to be {many}")
        wrong = [index for index, one in enumerate(value) if not isinstance(one, dict) and one is not BROKEN]
        if wrong:
            raise Bad("", [Detail((index,), f"it has to be a table, as in {self.form}") for index in wrong])
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        many = handler(schema)
        return many if self.key else {"anyOf": [many["items"], many]}
