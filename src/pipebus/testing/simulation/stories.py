"""A run as a story: which thread did what, in the order in which it happened, and where each thread was at the end."""

import asyncio
import dis
import linecache
import os
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

LAST: Final = 80
"""How many lines of a story are shown, from its end, where the race is."""

HEAD, TAIL = 3, 4
"""How many lines are shown of a long stretch of one thread, at its beginning and at its end."""

KIT: Final = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
LOOPS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "virtual_loop.py")
LIBRARY: Final = os.path.dirname(os.path.abspath(os.__file__))


class Recorder:
    """What happens, kept as tuples; written as text only when a story is read."""

    def __init__(self, brief: bool = False) -> None:
        self._brief = brief  # as for `what`
        self._said: list[tuple[str, Any, int, Any]] = []  # thread, code or None, line, text or bytecode offset
        self.closed = False

    def line(self, thread: str, code: Any, line: int) -> None:
        if not self.closed:
            self._said.append((thread, code, line, None))

    def note(self, thread: str, text: str) -> None:
        if not self.closed:
            self._said.append((thread, None, 0, text))

    def interrupted(self, thread: str, code: Any, offset: int) -> None:
        if code is None:
            self.note(thread, "is put to sleep")
        elif not self.closed:
            self._said.append((thread, code, -1, offset))

    def text(self, sim: Any, scenario: str, last: int | None = LAST) -> str:
        failure = (sim.failure or "all is well").splitlines()
        lines = [
            f"{scenario}, seed {sim.seed}: {failure[0]}",
            f"(To see it again: PIPEBUS_SEED={sim.seed} and this test. With this seed {sim.strategy}.)",
            "",
            *self.lines(last),
        ]
        if sim.ending:
            lines += [
                "",
                f"At the end, after {sim.steps} steps and {sim.elapsed:g} s:",
                *(f"    {line}" for line in sim.ending),
            ]
        if len(failure) > 1:
            lines += ["", "What was wrong, in full:", *(f"    {line}" for line in failure)]
        return "\n".join(lines)

    def lines(self, last: int | None = LAST) -> list[str]:
        """What happened; at most `last` lines, from the end."""
        body = list(self._lines(shorten=last is not None))
        hidden = len(body) - last if last is not None and len(body) > last else 0
        return [*([f"    … {hidden} {'line' if hidden == 1 else 'lines'} before"] if hidden else []), *body[hidden:]]

    def _lines(self, shorten: bool) -> Iterator[str]:
        width = max((len(thread) for thread, *_ in self._said), default=0)
        for thread, stretch in groupby(self._said, key=lambda entry: entry[0]):
            written = [line for _, code, number, extra in stretch for line in _written(code, number, extra, self._brief)]
            if shorten and len(written) > HEAD + TAIL + 1:
                written = [*written[:HEAD], f"  … {len(written) - HEAD - TAIL} more lines", *written[-TAIL:]]
            for number, line in enumerate(written):
                yield f"{'' if number else thread:{width}} | {line}"


def _written(code: Any, number: int, extra: Any, brief: bool) -> list[str]:
    if code is None:
        return [f"-- {extra}"]
    if number >= 0:
        return [f"{place(code.co_filename, number):<24}{code.co_name:<16} {source(code.co_filename, number)}"]
    found = next((step for step in dis.get_instructions(code) if step.offset == extra), None)
    if brief:
        kind, value = (found.opname.partition("_")[0], found.argval) if found is not None else ("", None)
        does = {"LOAD": "reads", "STORE": "sets"}.get(kind)
        where = f"before it {does} {value}" if does and isinstance(value, str) else "within this line"
        return [f"-- is put to sleep {where}"]
    what = f"{found.opname} {found.argrepr}".strip() if found is not None else "the next bytecode"
    return [f"-- is put to sleep before {what}"]


def place(filename: str, line: int) -> str:
    return f"{os.path.basename(filename)}:{line}"


def source(filename: str, line: int) -> str:
    return linecache.getline(filename, line).strip()


def what(on: Any, brief: bool = False) -> str:
    """What a thread waits for, in words; `brief` is for users of the bus, who do not know its locks."""
    if hasattr(on, "made"):
        file, line = on.made
        if os.path.basename(file) == "worker.py" and "self.gate" in source(file, line):
            return "something to do"
        if file == LOOPS:
            return "something to do on its event loop"
        if brief and not on.of_the_user:
            return "another thread in the bus" if on.holder is not None else "the bus"
        holder = f", held by {on.holder.name}" if on.holder is not None else ""
        return f"`{source(file, line)}` of {place(file, line)}{holder}" if _interesting(file) else f"a lock{holder}"
    if hasattr(on, "thread"):
        return f"the end of {on.name}"
    return f"{on:g} s to pass" if isinstance(on, float | int) else str(on)


def position(task: Any, running: bool, frame: Any, traceback: Any) -> str:
    """Where a thread was when a run failed."""
    if task.ended:
        return f"{task.name} has ended"
    frame, line = _raised_at(traceback) if traceback is not None else _nearest(frame)
    if frame is None and not running and task.waits_for is None:
        return f"{task.name} has not begun"
    where = ""
    if frame is not None:
        file = frame.f_code.co_filename
        where = f" at {place(file, line)}, in {frame.f_code.co_name}" + (f": {source(file, line)}" if traceback is None else "")
    if task.waits_for is None:
        return f"{task.name} {'was running' if running else 'could go on'}{where}"
    until = f" until {task.deadline:g}" if task.deadline is not None else ""
    return f"{task.name} waits for {what(task.waits_for)}{until}{where}"


def positions(sim: Any, error: BaseException | None) -> list[str]:
    """Where each thread of a run is; for the running thread, where it has raised `error`."""
    frames = sys._current_frames()
    lines = []
    for task in sim.all_tasks:
        traceback = error.__traceback__ if error is not None and task is sim.running else None
        lines.append(position(task, sim.running is task, frames.get(task.thread.ident or 0), traceback))
        lines += [line for loop in sim.loops if loop.something_to_do is task.waits_for for line in _coroutines(loop)]
    return lines


def _coroutines(loop: Any) -> list[str]:
    """Where the tasks of an event loop wait, in the user's code."""
    lines: list[str] = []
    for task in asyncio.all_tasks(loop):
        where = ""
        inner: Any = task.get_coro()
        while inner is not None:
            frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
            if frame is not None and _interesting(frame.f_code.co_filename) and not _is_ours(frame):
                file, line = frame.f_code.co_filename, frame.f_lineno
                where = f"a task waits at {place(file, line)}, in {frame.f_code.co_name}: {source(file, line)}"
            inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
        lines += [where] if where else []
    return sorted(lines)


def _raised_at(traceback: Any) -> tuple[Any, int]:
    """The last line of the user's own code in a traceback, or the last line of all."""
    found = traceback
    while traceback is not None:
        if _interesting(traceback.tb_frame.f_code.co_filename) and not _is_ours(traceback.tb_frame):
            found = traceback
        traceback = traceback.tb_next
    return found.tb_frame, found.tb_lineno


def _nearest(frame: Any) -> tuple[Any, int]:
    """The innermost frame of the user's code, or else of the bus's, and its line."""
    ours = None
    while frame is not None:
        if _interesting(frame.f_code.co_filename):
            if not _is_ours(frame):
                return frame, frame.f_lineno
            ours = ours or frame
        frame = frame.f_back
    return ours, ours.f_lineno if ours is not None else 0


def _is_ours(frame: Any) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("pipebus.")


def _interesting(file: str) -> bool:
    """Whether a file belongs to the bus or its user, and not to the testing kit or the standard library."""
    file = os.path.abspath(file)
    folder = os.path.dirname(file)
    return not file.startswith(KIT) and folder not in (LIBRARY, os.path.join(LIBRARY, "asyncio")) and "_pytest" not in folder
