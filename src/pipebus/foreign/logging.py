"""Where log lines go: to structlog or the standard library's logging if one is configured, otherwise to standard error."""

from __future__ import annotations

import functools
import logging
import sys
from contextlib import suppress
from typing import Any, Final

from pipebus.foreign.objects import formatted

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


_stdlib = logging.getLogger("pipebus")


def get_logger(**facts: Any) -> Any:
    """
    A structlog logger. Callers fetch it for each use: the program may configure logging at any time, and pipebus never does.

    If the program has configured structlog, lines go there; otherwise, if it has configured the standard library's logging, to
    the logger `pipebus`. If it has configured neither, lines of level info and above go to standard error, so that lost work
    gets noticed. (structlog's own default would print everything, to standard output.)
    """
    import structlog

    if structlog.is_configured():
        return structlog.get_logger("pipebus", **facts)
    return (_for_stdlib() if stdlib_configured() else _for_stderr()).bind(**facts)


def merges_context() -> bool:
    """Whether the program's log lines carry structlog's context variables: it has configured structlog so."""
    structlog = sys.modules.get("structlog")  # a program that does not use it pays no more than this for each delivery
    if structlog is None or not getattr(structlog, "is_configured", bool)():  # it is not there while another thread imports it
        return False
    return structlog.contextvars.merge_contextvars in structlog.get_config()["processors"]


def bound_context(**facts: Any) -> list[tuple[Any, Any]]:
    """Bind facts as context variables of structlog; returns each variable with the token to reset it."""
    from structlog.contextvars import bind_contextvars

    return [(token.var, token) for token in bind_contextvars(**facts).values()]


def logging_configured() -> bool:
    """True if the program has decided where log lines go."""
    import structlog

    return structlog.is_configured() or stdlib_configured()


def stdlib_configured() -> bool:
    """True if the logger `pipebus` has a handler (its own or an ancestor's) or a level, or is switched off."""
    switched = _stdlib.level or _stdlib.disabled or not _stdlib.propagate or logging.root.manager.disable
    return bool(switched) or _stdlib.hasHandlers()


@functools.cache
def _for_stdlib() -> Any:
    import structlog

    return structlog.wrap_logger(
        _stdlib,
        processors=[
            structlog.stdlib.filter_by_level,
            _exception_as_text,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@functools.cache
def _for_stderr() -> Any:
    import structlog

    return structlog.wrap_logger(
        _Stderr(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _exception_as_text,
            structlog.dev.ConsoleRenderer(colors=False, sort_keys=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def _exception_as_text(_: Any, __: str, facts: Any) -> Any:
    error = facts.pop("exc_info", None)
    if isinstance(error, BaseException):
        facts["exception"] = formatted(error).rstrip()
    return facts


class _Stderr:
    """The current standard error, with one write for each line, so that the lines of two threads do not mix."""

    def write(self, line: str) -> None:
        stream = sys.stderr
        if stream is not None:
            with suppress(
                OSError, ValueError
            ):  # a pipe that nobody reads, or a closed file: there is no place left to report it
                stream.write(line + "\n")

    debug = info = warning = error = critical = write
