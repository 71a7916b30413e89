"""Dead letters in a file, as JSON Lines: `pipebus run --dead` writes it, and `pipebus dead` works on it."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError
from pipebus.cli.messages import body_json
from pipebus.cli.show import as_json

if TYPE_CHECKING:
    from pipebus.outcomes.dead_letters import DeadLetter

Letter = dict[str, Any]


def letter_json(letter: "DeadLetter") -> Letter:
    """Return a letter as JSON: what people want to see, and the encoded message under "wire"."""
    from pipebus.errors import PipebusError
    from pipebus.message.codec import JsonCodec

    try:
        wire = json.loads(JsonCodec().encode(letter.message))
    except (PipebusError, ValueError) as error:
        wire = {"error": str(error)}  # such as a message for an object: it can be shown, but not replayed
    return letter.summary() | {"traceback": letter.traceback, **body_json(letter.message), "wire": wire}


class Letters:
    """
    The letters of one file. A change is atomic, and no change is lost if two processes change the file at the same time.

    Raises:
        CommandError: the file contains something else, or cannot be written.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._real = os.path.realpath(path)  # so that a symbolic link is kept

    def check(self) -> None:
        """Raise now, and not at the end of a long run, if the file cannot be used."""
        if os.path.exists(self._real):
            self.read()
        with self._alone(), self._written([]):
            pass

    def read(self) -> list[Letter]:
        if os.path.exists(self._real) and not os.path.isfile(self._real):
            raise CommandError(f"{self.path}: not a file; letters need a file of their own")
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
            raise CommandError(f"{self.path}:{number}: not a dead letter; give a file that `pipebus run --dead` wrote")
        found: Letter = one
        return found

    def add(self, letters: Iterable[Letter]) -> None:
        """Append letters, each with an id of its own."""
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
        """Lock the folder, on systems with flock, so that no other process changes letters in it."""
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
        """Write letters to a temporary file in the same folder, and remove it afterwards if it is still there."""
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
    """Give letters free ids: d1, or d1-2 if d1 is taken."""
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
