"""
`${env:X}` and `${file:p}` in texts. They are replaced after the file is parsed, so no replacement can change its structure.

    ${env:X}            the environment variable X; an error if it is not set
    ${env:X:-default}   the default if X is not set or empty
    ${env:X:?message}   an error with this message if X is not set or empty
    ${file:path}        the content of a file, without a newline at its end; the path is relative to the config file
    $${                 the text ${
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Final

from pipebus.config.problems import Bad
from pipebus.config.wording import Interpolated, guess

LARGEST: Final = 1 << 20
"""Most bytes of a file that `${file:…}` names."""

_MARK: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Lacking(Bad):
    """A variable that is not set, or a file that does not exist."""


def interpolate(
    text: str,
    environment: Mapping[str, str],
    folder: Path,
    secrets: MutableMapping[str, str],
    lacking: Callable[[], str] | None = None,
) -> str:
    """
    Return a text with each `${…}` replaced; an `Interpolated` if it had any.

    Args:
        secrets: Receives each replacement, as replacement -> its `${…}`.
        lacking: Returns the replacement for a missing variable or file. Without it, these are errors.

    Raises:
        Bad: with the name of the variable or file, never with its content.
    """
    replaced = False

    def put(match: re.Match[str]) -> str:
        nonlocal replaced
        if match[0] == "$${":
            return "${"
        inside, end = match.groups()
        if not end:
            raise Bad('"${" is not closed; write "$${" for the text itself')
        if "${" in inside:
            raise Bad(f"a ${{…}} cannot be inside another one, as in {match[0]}")
        replaced = True
        try:
            value = _replaced(inside, environment, folder)
        except Lacking:
            if lacking is None:
                raise
            return lacking()
        if not inside.endswith(f":-{value}"):  # a default is in the file itself, so it is not secret
            secrets[value] = match[0]
        return value

    joined = _MARK.sub(put, text)
    return Interpolated(joined, text) if replaced else joined


def _replaced(inside: str, environment: Mapping[str, str], folder: Path) -> str:
    scheme, colon, rest = inside.partition(":")
    if not colon or scheme not in ("env", "file"):
        near = guess(scheme, ("env", "file")) if colon else ""
        raise Bad(f"${{{inside}}}: it has to be ${{env:NAME}} or ${{file:path}}{near}")
    return _environment(rest, environment) if scheme == "env" else _file(rest, folder)


def _environment(rest: str, environment: Mapping[str, str]) -> str:
    name, colon, more = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise Bad(f"${{env:{rest}}}: {name!r} is not the name of a variable")
    if colon and more[:1] not in ("-", "?"):
        raise Bad(f"${{env:{rest}}}: after the name comes :-default or :?message")
    value = environment.get(name)
    if value is not None and (value or not colon):
        return value
    if not colon:
        raise Lacking(f"{name} is not set; set it, or write ${{env:{name}:-default}}")
    if more[0] == "?":
        raise Lacking(f"{name} is not set: {more[1:]}" if len(more) > 1 else f"{name} is not set, and must be")
    return more[1:]


def _file(name: str, folder: Path) -> str:
    path = folder / name
    try:
        if not name or not path.exists():
            raise Lacking(f"${{file:{name}}}: no such file (looked for it at {path})")
        if not path.is_file():  # reading a pipe would wait for its writer
            raise Bad(f"${{file:{name}}}: {path} is not a file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except Bad:
        raise
    except (OSError, ValueError) as error:
        raise Bad(f"${{file:{name}}}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > LARGEST:
        raise Bad(f"${{file:{name}}}: {path} is larger than {LARGEST // 1024} KiB")
    try:
        text = data.decode("utf-8")
        return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
    except UnicodeDecodeError:
        raise Bad(f"${{file:{name}}}: {path} is not UTF-8 text") from None
