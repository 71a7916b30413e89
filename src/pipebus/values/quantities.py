"""
Durations, sizes and whole numbers: one check each, for code and for config files.

A duration is a number of seconds, or text with a unit ("200ms", "1.5s", "10m", "2h", "1d"); a size is a whole number of
bytes, or text ("64KiB", "1MiB", "500kB"). `seconds()` and `size()` convert them: for the arguments of the bus's methods, for
the fields of filters (in `__post_init__`) and for config files, so all of these accept the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeGuard

from pipebus.errors import PipebusError, PipelineError
from pipebus.foreign.objects import shown

Duration = float | str
"""An argument for `seconds`."""
Seconds = Annotated[float, "seconds"]
Bytes = Annotated[int, "bytes"]
Condition = Annotated[Callable[[Any], object], "condition"]
"""A function of the message that returns true or false; in a config file, also an expression."""
Type = Annotated[Any, "type"]
"""A type to validate with; a config file names it, as in "shop.models:Order"."""
Secret = Annotated[Any, "secret"]
"""A key or password: a `SecretStr` of pydantic, or in code anything that the filter makes one of. A file has text."""

SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_DIGITS: Final = 4000
"""Most digits of a number with a unit. Python refuses to convert more than 4,300."""

_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def is_whole(value: Any, least: float = 0) -> TypeGuard[int]:
    """True for a whole number of at least `least`. True and False are not numbers here."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def seconds(
    value: Any, what: str, least: float = 0.0, above: float | None = None, error: type[PipebusError] = PipelineError
) -> float:
    """
    Return a duration in seconds.

    Args:
        what: The name of the setting, for the error, as in `Expire.ttl`.
        least: Smallest allowed value.
        above: The value must be greater than this, if given.
        error: The class of the error.

    Raises:
        PipelineError, or `error`: the value is not such a duration.
    """
    if type(value) is float and least <= value < math.inf and (above is None or value > above):
        return value  # nearly always
    try:
        found = float(_quantity(value, what, SECONDS, 'a number of seconds, or text such as "200ms", "5s", "10m"', error))
    except OverflowError:
        found = math.inf
    if not math.isfinite(found) or found < least or (above is not None and found <= above):
        bound = f"greater than {above:g}" if above is not None else f"at least {least:g}"
        raise error(f"{what}={_shown(value)}: it is {bound} seconds, and finite")
    return found


def limit(value: Any, what: str = "timeout") -> float:
    """
    Return how long to wait at most, in seconds: `math.inf` means forever, and a negative number, as the rest of a time that is
    over, means not at all.

    Raises:
        PipelineError: the value is not a duration.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value <= math.inf:  # not NaN
        return value
    return seconds(value, what)


def size(value: Any, what: str, least: int = 0) -> int:
    """
    Return a size in bytes, below 2**63.

    Raises:
        PipelineError: the value is not such a size.
    """
    found = _quantity(value, what, BYTES, 'a whole number of bytes, or text such as "64KiB", "1MiB"')
    if not least <= found < 2**63 or found != int(found):
        raise PipelineError(f"{what}={_shown(value)}: it is a whole number of bytes, at least {least}")
    return int(found)


def _quantity(value: Any, what: str, units: dict[str, Any], form: str, error: type[PipebusError] = PipelineError) -> Any:
    """Return a number of seconds or bytes. It is an exact whole number if the text has one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise error(f"{what}={shown(value)}: it is {form}")
    number, unit = match.groups()
    if len(number) > _DIGITS:
        raise error(f"{what}={value!r}: it is {form}; {len(number):,} digits are too many")
    if unit not in units:
        raise error(f'{what}={value!r}: unknown unit "{unit}"; there are {", ".join(units)}')
    return (int(number) if number.isdigit() else float(number)) * units[unit]


def _shown(value: Any) -> str:
    return repr(value) if not isinstance(value, int) or value < 10**30 else f"{str(value)[:20]}…"
