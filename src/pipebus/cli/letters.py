"""Dead letters in a file, as JSON Lines: what `pipebus run --dead` keeps and `pipebus dead` works on."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError
from pipebus.cli.messages import body_told
from pipebus.cli.show import as_json

if TYPE_CHECKING:
    from pipebus.outcomes.dead_letters import DeadLetter

Letter = dict[str, Any]


def told(letter: "DeadLetter") -> Letter:
    """A letter, JSON-safe: what a person wants to see, and under "wire" the message as it would travel."""
    from pipebus.errors import PipebusError
    from pipebus.message.codec import JsonCodec

    try:
        wire = json.loads(JsonCodec().encode(letter.message))
    except (PipebusError, ValueError) as error:
        wire = {"error": str(error)}  # such as mail for an object: it can be shown, and not be given back
    return letter.summary() | {"traceback": letter.traceback, **body_told(letter.message), "wire": wire}


class Letters:
    """
    The letters of one file. A change is all or nothing, and two programs that change it at the same time lose nothing.

    Raises:
        CommandError: it holds something else, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._real = os.path.realpath(path)  # a link stays one

    def check(self) -> None:
        """Say now, not at the end of a long run, that it will not do."""
        if os.path.exists(self._real):
            self.read()
        with self._alone(), self._written([]):
            pass

    def read(self) -> list[Letter]:
        if os.path.exists(self._real) and not os.path.isfile(self._real):
            raise CommandError(f"{self.path}: no file; letters are kept in a file of their own")
        try:
            with open(self._real, encoding="utf-8") as file:
                return [self._letter(number, line) for number, line in enumerate(file, 1) if not line.isspace()]
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{self.path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None

    def _letter(self, number: int, line: str) -> Letter:
        try:
            one = json.loads(line)
            texts = [one[key] for key in ("id", "message", "subscription", "error")]
            fine = all(isinstance(text, str) for text in texts) and isinstance(one["wire"], dict)
        except (ValueError, TypeError, KeyError, RecursionError):
            fine = False
        if not fine:
            raise CommandError(f"{self.path}:{number}: no dead letter; give a file that `pipebus run --dead` has written")
        found: Letter = one
        return found

    def add(self, letters: Iterable[Letter]) -> None:
        """Behind those that are there, each with an id of its own."""
        self.change(lambda old: [*old, *renumbered(letters, old)])

    def change(self, new: Callable[[list[Letter]], list[Letter]]) -> None:
        with self._alone():
            before = self.read() if os.path.exists(self._real) else []
            after = new(before)
            if after == before:
                return
            with self._written(after) as there:
                os.replace(there, self._real)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other program changes a file of this folder (where the system knows locks)."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        folder = os.path.dirname(self._real)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _written(self, letters: list[Letter]) -> Iterator[str]:
        """A file beside it that holds these, and that nobody else may read; what is there afterwards is removed."""
        folder, name = os.path.split(self._real)
        try:
            handle, there = tempfile.mkstemp(".new", f"{name}.", folder)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.writelines(as_json(one, "utf-8") + "\n" for one in letters)
                file.flush()
                os.fsync(file.fileno())
            if os.path.exists(self._real):
                os.chmod(there, os.stat(self._real).st_mode & 0o7777)
            yield there
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            if os.path.exists(there):
                os.unlink(there)

    def _unwritable(self, error: OSError) -> CommandError:
        return CommandError(f"{self.path}: cannot be written: {error.strerror or error}")


def renumbered(letters: Iterable[Letter], old: Iterable[Letter]) -> list[Letter]:
    """With free ids: d1, or d1-2 where d1 is taken."""
    taken = {one["id"] for one in old}
    found = []
    for one in letters:
        stem, number = one["id"].partition("-")[0], 1
        id = one["id"]
        while id in taken:
            number += 1
            id = f"{stem}-{number}"
        taken.add(id)
        found.append(one | {"id": id})
    return found
