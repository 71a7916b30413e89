"""Dead letters in a file, as JSON Lines: `pipebus run --dead` writes it, and `pipebus dead` works on it."""

import json
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pipebus.bus.bus import Bus
from pipebus.cli import CommandError, CommandFailed
from pipebus.cli.messages import body_json
from pipebus.cli.show import as_json
from pipebus.message.codec import JsonCodec
from pipebus.outcomes.dead_letters import DeadLetter

Letter = dict[str, Any]


def letter_json(letter: DeadLetter) -> Letter:
    """Return a letter as JSON: what people want to see, and the encoded message under "wire"."""
    try:
        wire = json.loads(JsonCodec().encode(letter.message))
    except Exception as error:
        wire = {"error": str(error)}  # such as a message for an object: it can be shown, but not replayed
    return letter.summary() | {"traceback": letter.traceback, **body_json(letter.message), "wire": wire}


class Letters:
    """The letters of one file. A change is atomic, and none is lost if two processes change the file at the same time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._real = os.path.realpath(path)  # so that a symbolic link is kept
        self._ids: set[str] = set()  # those in the file, as far as it has been read
        self._read = (0, 0)  # number and size of that file

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

    def append(self, letter: Letter) -> None:
        """Add a letter with an id of its own: whole, or not at all."""
        with self._alone():
            try:
                file = os.open(self._real, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            except OSError as error:
                raise self._unwritable(error) from None
            try:
                found = os.fstat(file)
                ends = self._look(file, found)
                [letter] = renumbered([letter], self._ids)
                data = (("" if ends else "\n") + as_json(letter, "utf-8") + "\n").encode()
                size = found.st_size + len(data)
                try:
                    while data:
                        data = data[os.write(file, data) :]
                except OSError:
                    os.ftruncate(file, found.st_size)
                    raise
                self._ids.add(letter["id"])
                self._read = (found.st_ino, size)
            except OSError as error:
                raise self._unwritable(error) from None
            finally:
                os.close(file)

    def _look(self, file: int, found: os.stat_result) -> bool:
        """Read the ids that another process has added, or all of another file. Return whether its last line has an end."""
        number, size = self._read
        if number != found.st_ino or size > found.st_size:
            self._ids, size = set(), 0
        if size < found.st_size:
            new = os.pread(file, found.st_size - size, size)
            self._ids.update(self._letter(0, line)["id"] for line in new.decode(errors="replace").splitlines() if line.strip())
            return new.endswith(b"\n")
        return True

    def sync(self) -> None:
        """Return when the disk has it all."""
        if os.path.exists(self._real):
            file = os.open(self._real, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def change(self, new: Callable[[list[Letter]], list[Letter]]) -> None:
        with self._alone():
            before = self.read() if os.path.exists(self._real) else []
            after = new(before)
            if after == before:
                return
            with self._written(after) as there:
                os.replace(there, self._real)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """
        Keep other replays away from the file: each would handle all of its letters.

        Raises:
            CommandFailed: another one is running.
        """
        try:
            import fcntl

            file = os.open(self._real, os.O_RDONLY)
        except (ImportError, OSError):
            yield  # `read` says what is wrong with the file
            return
        try:
            # A change replaces the file, so the path may be another file by now: that of a replay that has ended since.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_ino != os.stat(self._real).st_ino:
                raise BlockingIOError
        except BlockingIOError:
            os.close(file)
            raise CommandFailed(f"{self.path} is in use by another replay; try again when that has ended") from None
        try:
            yield
        finally:
            os.close(file)

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


class Journal:
    """
    Writes each dead letter of a bus to a file when it dies, so that no end of the program loses it. A letter that cannot be
    written, as on a full disk, is kept and tried again, and `says` says so.
    """

    def __init__(self, bus: Bus, letters: Letters, says: Callable[[str], object]) -> None:
        letters.check()
        self.error: CommandError | None = None  # why letters wait to be written
        self._letters = letters
        self._says = says
        self._waiting: deque[Letter] = deque()
        self._lock = threading.Lock()
        bus.dead_letters.also = self._add

    def _add(self, letter: DeadLetter) -> None:
        """Called where a message dies, so it raises nothing."""
        self._waiting.append(letter_json(letter))
        self.write()

    def write(self) -> bool:
        """Write the letters that wait. False if one cannot be written now."""
        with self._lock:
            while self._waiting:
                try:
                    self._letters.append(self._waiting[0])
                except CommandError as error:
                    if self.error is None:
                        self._says(f"{error}; dead letters wait for it, and so does the reading of records")
                    self.error = error
                    return False
                self._waiting.popleft()
            self.error = None
        return True

    def close(self) -> CommandFailed | None:
        """Return the error if letters could not be written."""
        if not self.write():
            return CommandFailed(f"{self.error}; {len(self._waiting):,} dead letters are lost")
        self._letters.sync()
        return None


def renumbered(letters: Iterable[Letter], taken: set[str]) -> list[Letter]:
    """Give letters free ids: d1, or d1-2 if d1 is taken."""
    taken = set(taken)
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
