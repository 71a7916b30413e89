"""What `import pipebus` costs and does, and which module may know which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from missing import needs
from values_helpers import HOME, environment, run_python

PACKAGE = HOME / "pipebus"
ROOT = Path(__file__).parents[1]
MODULES = sorted(PACKAGE.rglob("*.py"))

LOADED = """
import json, sys
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(names - sys.stdlib_module_names - {"__main__"})))
"""
"""Ends a program with the names of what it has imported from outside the standard library."""


def loaded_by(program: str) -> set[str]:
    """What a program imports, without the standard library and without the interpreter's own start."""
    return set(json.loads(run_python(program + LOADED))) - set(json.loads(run_python(LOADED)))


# --- what it costs -------------------------------------------------------------------------------------------------------


def test_importing_pipebus_imports_nothing_heavy() -> None:
    """pydantic, structlog (which imports rich) and all extras are imported only when they are needed."""
    light = {"pipebus", "msgspec", "typing_extensions"}  # msgspec looks whether the last one is there
    assert loaded_by("import pipebus") | light == light


def test_a_bus_without_types_needs_no_pydantic() -> None:
    """Messages pass filters and reach handlers; as long as nobody asks for a type, nobody pays for types."""
    program = """
from pipebus import Bus, Message, transform
found = []
bus = Bus()
bus.use(lambda message, call_next: call_next(message.with_headers(seen="yes")))
bus.use(transform(lambda message: message.with_body(message.body + 1)))
bus.subscribe("a.>", found.append)
with bus:
    bus.publish("a.b", 1)
    bus.drain(timeout=10)
assert [message.body for message in found] == [2]
"""
    assert {"pydantic", "pydantic_core"} & loaded_by(program) == set()


def test_the_filters_need_no_pydantic() -> None:
    """Not even those whose settings are secrets, until one of them is made."""
    assert "pydantic" not in loaded_by("from pipebus.filters import *")


def test_a_typed_handler_brings_pydantic() -> None:
    """pydantic is imported when it is needed, so the other tests of this file would notice it."""
    program = """
from pipebus import Bus
def bill(order: int) -> None: ...
Bus().subscribe("a", bill)
"""
    assert "pydantic" in loaded_by(program)


def test_slow_standard_modules_are_not_imported() -> None:
    """The import leaves out those parts of the standard library that only some transport, test or command needs."""
    program = "import json, sys{}; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run_python(program.format(", pipebus")))) - set(json.loads(run_python(program.format(""))))
    slow = {"multiprocessing", "sqlite3", "unittest", "http.server", "xml.etree", "importlib.metadata", "tkinter", "pdb"}
    assert slow & loaded == set()


# --- what it does ----------------------------------------------------------------------------------------------------------


def test_importing_pipebus_does_nothing_else() -> None:
    """The import causes no output, thread, signal handler, event loop or warning, and only a null logging handler."""
    program = """
import logging, signal, sys, threading
before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
import pipebus
assert threading.enumerate() == [threading.main_thread()]
assert {number: signal.getsignal(number) for number in before} == before
assert logging.getLogger().handlers == []
assert all(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("pipebus").handlers)
"""
    assert run_python(program) == ""


def test_pipebus_works_without_its_extras() -> None:
    """Without the extra `cli`, only the command line is missing."""
    program = """
import logging, sys
sys.modules["rich"] = None
logging.getLogger("pipebus").addHandler(logging.NullHandler())
from pipebus import Bus
from pipebus.filters import Log
bus = Bus()
bus.use(Log())
with bus, bus.subscribe("a") as sub:
    bus.publish("a", 1)
    assert sub.receive(timeout=10).body == 1
"""
    assert run_python(program) == ""


def test_pipebus_works_without_its_checks() -> None:
    """`python -O` removes assertions, and with them nothing that is promised."""
    program = """
from pipebus import Bus, Message, SubjectError
try:
    Message("a..b")
except SubjectError:
    with Bus() as bus, bus.subscribe("a") as sub:
        bus.publish("a", 1)
        print(sub.receive(timeout=10).body)
"""
    assert run_python(program, "-O") == "1\n"


# --- which module may know which -------------------------------------------------------------------------------------------


def test_imports_run_one_way(tmp_path: Path) -> None:
    """import-linter, with the layers that `pyproject.toml` draws, finds nothing that imports upwards."""
    needs("importlinter")
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"),
            *("--config", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_imported_is_imported_from_where_it_is_defined() -> None:
    """
    Inside the package, no name is imported from an `__init__` that got it from elsewhere, so that the real dependency is
    visible.
    """
    wrong = []
    for path in MODULES:
        if path.name == "__init__.py":
            continue
        for node in tree_of(path):
            if isinstance(node, ast.Import):
                wrong += [(path.name, alias.name) for alias in node.names if alias.name == "pipebus"]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipebus":
                source = HOME.joinpath(*(node.module or "").split("."), "__init__.py")
                if source.is_file():
                    wrong += [(path.name, node.module, alias.name) for alias in node.names if alias.name in passed_on(source)]
    assert wrong == []


@cache
def tree_of(path: Path) -> tuple[ast.AST, ...]:
    """Everything that is written in a module."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def passed_on(init: Path) -> set[str]:
    """The names that a package's `__init__` has from other modules."""
    imports = [node for node in tree_of(init) if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_no_import_is_relative() -> None:
    """A reader sees where each name comes from."""
    relative = [
        (path.name, node.lineno)
        for path in MODULES
        for node in tree_of(path)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []
