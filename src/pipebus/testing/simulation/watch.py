"""
Call the scheduler before each bytecode of the watched modules, with `sys.settrace` on CPython 3.11 and `sys.monitoring` later.

(From 3.12, a trace function misses the bytecodes of code that runs for the first time, so a seed would not repeat its run.)
"""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation

PLANTED: Final[set[str]] = set()
"""More files to watch by bytecode: copies of modules in which a test has planted a race."""

BORING: Final = (
    "BINARY_OP", "BUILD_", "CACHE", "COMPARE_OP", "COPY", "END_", "EXTENDED_ARG", "IS_OP", "JUMP", "KW_NAMES", "LOAD_CONST",
    "LOAD_DEREF", "LOAD_FAST", "LOAD_GLOBAL", "MAKE_", "NOP", "POP_EXCEPT", "POP_TOP", "PRECALL", "PUSH_", "RERAISE", "RESUME",
    "RETURN", "STORE_FAST", "SWAP",
)  # fmt: skip
"""
Beginnings of the names of bytecodes that do not touch what threads share: a change of threads before one is the same as a
change before the next.
"""

_sim: Simulation | None = None
_known: dict[int, tuple[CodeType, frozenset[int]]] = {}


def boring(code: CodeType, offset: int) -> bool:
    """Whether a change of threads here is the same as one a little later."""
    return offset in _boring_in(code)


def _boring_in(code: CodeType) -> frozenset[int]:
    known = _known.get(id(code))  # by identity: hashing a code object is slow
    if known is None:
        offsets = frozenset(one.offset for one in dis.get_instructions(code) if one.opname.startswith(BORING))
        known = _known[id(code)] = (code, offsets)
    return known[1]


def by_line() -> dict[str, bool]:
    """The package's watched files, each by line (True) or by bytecode. A module declares it in `EXPLORED`."""
    files = dict.fromkeys(PLANTED, False)
    for name, module in list(sys.modules.items()):
        explored = getattr(module, "EXPLORED", None) if name.startswith("pipebus.") else None
        if explored is not None:
            files[str(module.__file__)] = explored == "line"
    return files


def _watched_run() -> Simulation | None:
    """The run to which the calling thread belongs, if it is watched now."""
    sim = _sim
    if sim is None or sim.over or sim.looking or sim.running is None or sim.running.thread.ident != get_ident():
        return None
    return sim


if sys.version_info >= (3, 12):
    monitoring = sys.monitoring
    TOOL: Final = 4
    _depth = 0

    def begin(sim: Simulation) -> None:
        """Watch the calling thread."""
        global _sim  # noqa: PLW0603
        _sim = sim

    def end() -> None:
        """Nothing to do: each event asks whether its run is over."""

    @contextmanager
    def all_code(files: dict[str, bool]) -> Iterator[None]:
        """Watch these files in the block; around many runs, because to set this up takes longer than one run."""
        global _depth  # noqa: PLW0603
        if _depth or not files:
            yield
            return
        codes = [(code, files[code.co_filename]) for code in _code_of(files)]
        line, instruction = monitoring.events.LINE, monitoring.events.INSTRUCTION
        monitoring.use_tool_id(TOOL, "pipebus scheduler")
        _depth = 1
        try:
            monitoring.register_callback(TOOL, instruction, _bytecode)
            monitoring.register_callback(TOOL, line, _on_line_in(files))
            for code, lines in codes:
                monitoring.set_local_events(TOOL, code, line if lines else line | instruction)
            yield
        finally:
            for code, _ in codes:
                monitoring.set_local_events(TOOL, code, 0)
            monitoring.free_tool_id(TOOL)
            _depth = 0

    def _bytecode(code: CodeType, offset: int) -> Any:
        if boring(code, offset):
            return monitoring.DISABLE
        sim = _watched_run()
        if sim is not None:
            sim.bytecode(code, offset)
        return None

    def _on_line_in(files: dict[str, bool]) -> Callable[[CodeType, int], None]:
        def line(code: CodeType, number: int) -> None:
            sim = _watched_run()
            if sim is not None:
                if files[code.co_filename]:
                    sim.bytecode(None, 0)
                sim.line(code, number)  # after a change of threads: a line in a story has run

        return line

    _codes: dict[frozenset[str], list[CodeType]] = {}

    def _code_of(files: dict[str, bool]) -> list[CodeType]:
        """All code objects of these files, also of nested functions. Those of the package do not change, and are kept."""
        ours = frozenset(files) <= by_line().keys() - PLANTED
        if ours and (known := _codes.get(frozenset(files))) is not None:
            return known
        found: dict[int, CodeType] = {}

        def add(code: CodeType) -> None:
            if code.co_filename in files and id(code) not in found:
                found[id(code)] = code
                for constant in code.co_consts:
                    if isinstance(constant, CodeType):
                        add(constant)

        for one in _objects():
            if type(one) is FunctionType:
                add(one.__code__)
        codes = list(found.values())
        if ours:
            _codes[frozenset(files)] = codes
        return codes

    def _objects() -> list[object]:
        """All objects that the garbage collector knows, also the frozen ones (`gc.freeze`), which `get_objects` leaves out."""
        frozen = gc.get_freeze_count()
        if not frozen:
            return gc.get_objects()
        gc.unfreeze()
        try:
            return gc.get_objects()
        finally:
            gc.freeze()

else:
    _files: dict[str, bool] = {}

    def begin(sim: Simulation) -> None:
        global _sim, _files
        _sim, _files = sim, sim.files
        if _files:
            sys.settrace(_trace)

    def end() -> None:
        if _files:
            sys.settrace(None)

    @contextmanager
    def all_code(files: dict[str, bool]) -> Iterator[None]:
        yield

    def _trace(frame: Any, event: str, _: Any) -> Any:
        lines = _files.get(frame.f_code.co_filename)
        if lines is None or _sim is None or _sim.looking:
            return None
        if lines:
            return _lines
        frame.f_trace_opcodes = True
        frame.f_trace_lines = _sim.story is not None
        return _opcodes

    def _opcodes(frame: Any, event: str, _: Any) -> Any:
        sim = _sim
        if sim is not None and not sim.over:
            if event == "opcode":
                sim.bytecode(frame.f_code, frame.f_lasti)
            elif event == "line":
                sim.line(frame.f_code, frame.f_lineno)
        return _opcodes

    def _lines(frame: Any, event: str, _: Any) -> Any:
        sim = _sim
        if event == "line" and sim is not None and not sim.over:
            sim.bytecode(None, 0)
            sim.line(frame.f_code, frame.f_lineno)  # after a change of threads: a line in a story has run
        return _lines
