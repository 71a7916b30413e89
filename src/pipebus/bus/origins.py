"""
What a config file says of a part of a bus, where that is not the part itself: `${env:X}` by setting, the whole entry under "".

It is kept beside the parts, by identity: a chain knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

_written: Final[WeakKeyDictionary[Any, Mapping[str, Any]]] = WeakKeyDictionary()


def origin_of(part: object) -> Mapping[str, Any]:
    """What a file says of a node, a selector or a schedule; empty if it was made in code."""
    return _written.get(part, {})


def set_origin(part: object, said: Mapping[str, Any]) -> None:
    """Remember what a file says of a part."""
    _written[part] = said
