"""What the URLs of all transports have in common: reading options, and hiding secrets where a URL is shown."""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import parse_qsl


def redacted(url: str) -> str:
    """A URL for error texts and logs: what comes before the host, such as a user and a password, is replaced by `***`."""
    head, slashes, rest = url.partition("//")
    after = after_host(url)
    _, at, host = rest[: len(rest) - len(after)].rpartition("@")
    # An @, / or ? in a password should be written %40, %2F or %3F. If it is not, the end of the password is in `after`.
    if "@" in after:
        return f"{head}{slashes}***@{rest.rpartition('@')[2]}"
    return f"{head}{slashes}{'***@' if at else ''}{host}{after}"


def after_host(url: str) -> str:
    """Path, query and fragment: what follows the host and port."""
    rest = url.partition("//")[2]
    end = min((found for found in map(rest.find, "/?#") if found >= 0), default=len(rest))
    return rest[end:]


def read_options(query: str, known: Collection[str], bad: Callable[[str], Exception]) -> dict[str, str]:
    """
    The options of a URL's query, as text.

    Args:
        known: Names of the options that exist.
        bad: Makes the error that is raised for an option that is unknown or given twice.
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise bad(f'option "{name}" is unknown; there are {", ".join(known)}')
        if name in found:
            raise bad(f'option "{name}" is given twice')
        found[name] = value
    return found


def number(text: str) -> object:
    """A number, which counts seconds or bytes, if the text is one; otherwise the text, which may have a unit."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text
