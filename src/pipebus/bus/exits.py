"""How a program ends whose handler, filter or observer has called `sys.exit()`."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

from pipebus.foreign.objects import exit_code, is_a, shown


class Exit:
    """The exit that is asked for, if one is."""

    def __init__(self) -> None:
        self.error: BaseException | None = None  # the error to end the program with
        self.lost = False  # the message that was being handled then is a dead letter

    def ask(self, error: BaseException, where: str, about: str, lost: bool) -> None:
        """
        A SystemExit or KeyboardInterrupt has ended user code, on any thread.

        Args:
            where: The code that it ended. about: What happened to its message. lost: That message is a dead letter.
        """
        if is_a(error, SystemExit):
            say(f"{where} called {told(error)}{f' on {about}' if about else ''}; the bus stops")
            self.lost = self.lost or lost
            if self.error is None:
                self.error = error

    def judge(self, abandoned: bool, unhandled: int | None) -> None:
        """Change exit code 0 to 1 if the program leaves work undone."""
        error = self.error
        if error is None or not is_success(exit_code(error)):
            return
        if unhandled == 0 and not self.lost and not abandoned:
            return
        left = f"{unhandled} message{'' if unhandled == 1 else 's'} left to handle" if unhandled else "not all handled"
        say(f"{told(error)} was called with {left}; the exit code is 1")
        self.error = SystemExit(1)

    def leave(self) -> None:
        """
        After a stop, on the main thread: end the program, if that is asked for.

        Raises:
            SystemExit: with the requested code, but 1 instead of 0 if work is left.
        """
        error = self.error
        if error is not None and threading.current_thread() is threading.main_thread():
            self.error = None
            raise SystemExit(exit_code(error)) from error


def say(text: str) -> None:
    """Write a line to standard error, because the log of a program that ends is easily missed."""
    with suppress(Exception):  # there is no standard error, or it is closed
        sys.stderr.write(f"pipebus: {text}\n")
        sys.stderr.flush()


def told(error: BaseException) -> str:
    """The `sys.exit` call that raised the error, as text."""
    code = exit_code(error)
    return f"sys.exit({'' if code is None else shown(code)})"


def is_success(code: object) -> bool:
    """Whether the exit status of the process is 0."""
    return code is None or (isinstance(code, int) and code & 0xFF == 0)
