"""A file may name only objects that allowed packages define, and nothing else is imported, whatever the file contains."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipebus import Bus, ConfigError, Message, PipelineError, Rejected
from pipebus.bus.bus import engine_of
from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.imports import Imports
from pipebus.config.kinds.names import FUNCTION
from pipebus.config.kinds.objects import home_of, name_of
from pipebus.config.problems import Bad, Unexportable
from scale_helpers import examples


@dataclass
class World:
    """Modules in a folder of their own, and files that name them."""

    folder: Path
    own: list[str] = field(default_factory=list)

    def module(self, name: str, source: str = "") -> None:
        """Write a module that records in a file next to it that it has run."""
        path = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        for parent in reversed(path.relative_to(self.folder).parents[:-1]):
            (self.folder / parent).mkdir(exist_ok=True)
            (self.folder / parent / "__init__.py").touch()
        path.write_text(f"open(__file__ + '.ran', 'w').close()\n{dedent(source)}", encoding="utf-8")
        self.own.append(name.partition(".")[0])
        importlib.invalidate_caches()

    def ran(self) -> set[str]:
        """The modules that have been imported."""
        found = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.ran")}
        return {one.removesuffix(".py.ran").replace("/", ".") for one in found}

    def load(self, toml: str, *allow: str, **handed: Any) -> Bus:
        (self.folder / "bus.toml").write_text(f"version = 1\n{dedent(toml)}", encoding="utf-8")
        return Bus.from_config(self.folder / "bus.toml", allow_imports=list(allow), **handed)

    def refused(self, toml: str, *allow: str) -> str:
        """Return the text of the one problem that the file has."""
        with pytest.raises(ConfigError) as caught:
            self.load(toml, *allow)
        (problem,) = caught.value.problems
        return problem.text


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = World(tmp_path)
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in made.own:
            del sys.modules[name]
    importlib.invalidate_caches()


def handler(name: str) -> str:
    return f'[[subscriptions]]\nname = "s"\nsubject = "a"\nhandler = "{name}"'


def filter(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "python", target = "{name}" }}]'


def model(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "validate", models = {{ ">" = "{name}" }} }}]'


def exception(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "retry", on = "{name}" }}]'


def tap(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "tap", target = "{name}" }}]'


def condition(name: str) -> str:
    return f'[[pipelines]]\nmatch = {{ python = "{name}" }}\nfilters = ["log"]'


def detour(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ when = {{ python = "{name}" }}, filters = ["log"] }}]'


def header(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "set_headers", headers = {{ h = {{ python = "{name}" }} }} }}]'


def field_value(name: str) -> str:
    return f'[[pipelines]]\nfilters = [{{ use = "fields", set = {{ "body.x" = {{ python = "{name}" }} }} }}]'


def instance(name: str) -> str:
    return f'[filters.x]\nuse = "python"\ntarget = "{name}"\n[[pipelines]]\nfilters = ["x"]'


def loading(*allow: str) -> Loading:
    return Loading(Imports(allow), {}, {})


EVERYWHERE = [handler, filter, model, exception, tap, condition, detour, header, field_value, instance]
everywhere = pytest.mark.parametrize("place", EVERYWHERE)

# --- packages ------------------------------------------------------------------------------------------------------------


@everywhere
def test_what_is_not_allowed_is_not_imported(world: World, place: Callable[[str], str]) -> None:
    """A package that the program has not allowed is not even looked for, wherever a file names something."""
    world.module("eviltwin", "def run(message): ...")
    before = set(sys.modules)
    says = world.refused(place("eviltwin:run"))
    assert 'package "eviltwin" is not allowed; pass allow_imports=["eviltwin"], or --allow eviltwin' in says
    assert world.ran() == set()
    assert "eviltwin" not in sys.modules
    assert {name for name in set(sys.modules) - before if not name.startswith(("pipebus", "pydantic", "jmespath"))} == set()


@everywhere
def test_what_is_imported_already_is_no_more_allowed_for_it(world: World, place: Callable[[str], str]) -> None:
    """A file may not use `os` only because this program uses it."""
    assert 'package "os" is not allowed' in world.refused(place("os:system"))
    assert world.refused(place("builtins:eval")).endswith(
        ('pass allow_imports=["builtins"], or --allow builtins', "it is not a type")
    )


def test_a_package_allows_its_submodules_and_no_neighbour(world: World) -> None:
    """`shop` allows `shop` and `shop.billing`, but not `shopify`, `shop_admin` or `workshop`."""
    for name in ("tshop.billing.eu", "tshopify", "tshop_admin", "worktshop"):
        world.module(name, "def run(message): ...")
    world.load(handler("tshop.billing.eu:run"), "tshop")
    for name in ("tshopify", "tshop_admin", "worktshop"):
        assert f'package "{name}" is not allowed' in world.refused(handler(f"{name}:run"), "tshop")
    assert world.ran() == {"tshop.billing.eu"}


def test_a_submodule_allows_what_is_below_it_only(world: World) -> None:
    """`allow_imports=["shop.billing"]` allows neither `shop.admin` nor `shop` itself."""
    for name in ("ushop.billing", "ushop.admin", "ushop.billings"):
        world.module(name, "def run(message): ...")
    (world.folder / "ushop" / "__init__.py").write_text("def run(message): ...")
    world.load(handler("ushop.billing:run"), "ushop.billing")
    for name in ("ushop.admin", "ushop.billings", "ushop"):
        assert 'package "ushop" is not allowed' in world.refused(handler(f"{name}:run"), "ushop.billing")
    assert world.ran() == {"ushop.billing"}


@pytest.mark.parametrize("name", ["Tcase:run", "TCASE.x:run", "tcas:run", "tcase2:run"])
def test_names_of_packages_are_compared_letter_by_letter(world: World, name: str) -> None:
    """Case matters, and a prefix is not completed."""
    world.module("tcase", "def run(message): ...")
    assert "is not allowed" in world.refused(handler(name), "tcase")
    assert world.ran() == set()


def test_nothing_is_allowed_when_nothing_is_said(world: World) -> None:
    """A file without imports needs no permission, and a file with any import needs one."""
    world.module("tnone", "def run(message): ...")
    world.load('[[pipelines]]\nfilters = ["log"]')
    assert "is not allowed" in world.refused(handler("tnone:run"))


def test_modules_beside_the_file_are_no_special_case(world: World) -> None:
    """A module next to the file is imported only if it is allowed, like every other module."""
    world.module("bus", "def run(message): ...")
    assert "is not allowed" in world.refused(handler("bus:run"), "shop")
    assert world.ran() == set()


@pytest.mark.parametrize(
    "allowed", ["shop", [""], ["shop."], [".shop"], ["shop..x"], ["shop/x"], [5], ["*"], ["shop:run"]], ids=repr
)
def test_what_is_no_package_cannot_be_allowed(world: World, allowed: Any) -> None:
    """
    A text instead of a list would allow packages of one letter, and "*" would allow nothing while it looks like everything.
    """
    (world.folder / "bus.toml").write_text("version = 1")
    with pytest.raises(PipelineError, match="allow_imports"):
        Bus.from_config(world.folder / "bus.toml", allow_imports=allowed)


def test_allowing_nothing_may_be_said_with_none(world: World) -> None:
    """None is allowed here, as it is for `handlers` and `filters`."""
    (world.folder / "bus.toml").write_text("version = 1")
    Bus.from_config(world.folder / "bus.toml", allow_imports=None, handlers=None, filters=None)  # type: ignore[arg-type]


# --- names ---------------------------------------------------------------------------------------------------------------

FORM = 'it has to be "module:name", as in "shop.billing:bill"'


@pytest.mark.parametrize(
    "name",
    [
        "run", "tform", "tform:", ":run", "tform.run", "tform:run:x", "tform/x:run", ".tform:run", "tform.:run", "tform..x:run",
        "tform:.run", "tform:run.", "tform:run..x", "tform:run()", "tform:run(1)", "tform:[run]", "tform:run\\n",
        "\\ntform:run", " tform:run", "tform: run", "tform:run ", "tform:run;x", "5form:run", "tform:5", "tförm:run",
        "tform:rün", "tform:run\\u0000", "tform\\\\x:run", "../tform:run", "tform:run#x", "http://x:run", "tform:lambda m: m",
    ],
)  # fmt: skip
def test_what_has_not_the_form_of_a_name_is_told_so(world: World, name: str) -> None:
    """A name has only letters, digits, underscores and dots on each side of one colon: no code, no path, no relative import."""
    world.module("tform", "def run(message): ...")
    assert world.refused(filter(name), "tform").endswith(FORM)
    assert world.ran() == set()


@pytest.mark.parametrize(
    "path",
    [
        "__builtins__", "run.__globals__", "run.__class__", "Order.__init__", "Order.__subclasses__", "Order.__mro__",
        "__name__", "__loader__", "run.__code__", "Order.__dict__", "__dict__", "run.__wrapped__", "run.__self__",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [handler, filter, model])
def test_pythons_own_names_lead_nowhere(world: World, place: Callable[[str], str], path: str) -> None:
    """`__globals__` or `__class__` of any function would lead to everything."""
    world.module("tdunder", "class Order: ...\ndef run(message): ...")
    part = path.rpartition(".")[2]
    assert world.refused(place(f"tdunder:{path}"), "tdunder").endswith(
        f'"{part}" is Python\'s own; name a function, class or object'
    )


def test_what_a_module_has_not_is_told_with_what_is_near(world: World) -> None:
    """The error suggests the nearest name at each step of the path."""
    world.module("tnear", "class Billing:\n    @staticmethod\n    def bill(message): ...\n_hidden = 1")
    assert world.refused(filter("tnear:Biling.bill"), "tnear").endswith('tnear has no "Biling"; did you mean "Billing"?')
    assert world.refused(filter("tnear:Billing.bil"), "tnear").endswith('tnear.Billing has no "bil"; did you mean "bill"?')
    assert world.refused(filter("tnear:_hiden"), "tnear").endswith('tnear has no "_hiden"')


# --- what is found -------------------------------------------------------------------------------------------------------

FOREIGN = {
    "a function of a module that it imports": ("import os", "os.system", "os"),
    "a function that it imports": ("from os import system", "system", "posix"),
    "a Python function that it imports": ("from shutil import rmtree", "rmtree", "shutil"),
    "a function under another name": ("import shutil\nclean = shutil.rmtree", "clean", "shutil"),
    "eval": ("run = eval", "run", "builtins"),
    "exec": ("run = exec", "run", "builtins"),
    "import": ("run = __import__", "run", "builtins"),
    "getattr": ("run = getattr", "run", "builtins"),
    "a partial of a foreign function": ("import os, functools\nrun = functools.partial(os.system)", "run", "posix"),
    "a partial of a partial": (
        "import os, functools\nclass Mine(functools.partial): ...\nrun = Mine(functools.partial(os.system))", "run", "posix",
    ),
    "the function of a partial": ("import os, functools\nrun = functools.partial(os.system)", "run.func", "posix"),
    "a foreign function with a cache": ("import os, functools\nrun = functools.cache(os.system)", "run", "posix"),
    "a foreign function as a static method": ("import os\nclass C:\n    run = staticmethod(os.system)", "C.run", "posix"),
    "a static method at the top": ("import os\nrun = staticmethod(os.system)", "run", "posix"),
    "a foreign function in a class": ("import shutil\nclass C:\n    run = shutil.rmtree", "C.run", "shutil"),
    "a foreign function on an object": ("import shutil\nclass C: ...\nc = C()\nc.run = shutil.rmtree", "c.run", "shutil"),
    "a partial in a class": (
        "import os, functools\nclass C:\n    run = functools.partial(os.system)", "C.run", "posix",
    ),
    "a method of a foreign object": ("import pathlib\nhome = pathlib.Path('.')", "home.unlink", Path.unlink.__module__),
    "a method of a foreign class": ("import subprocess", "subprocess.Popen.communicate", "subprocess"),
    "a method that a class inherits": ("import subprocess\nclass C(subprocess.Popen): ...", "C.communicate", "subprocess"),
    "a method of a list": ("found = []", "found.append", "builtins"),
    "a method of a text": ("text = 'a'", "text.format", "builtins"),
    "a partial of a method of a foreign object": (
        "import pathlib, functools\nrun = functools.partial(pathlib.Path('.').unlink)", "run", Path.unlink.__module__,
    ),
    "an object of a foreign class": ("import operator\nrun = operator.methodcaller('unlink')", "run", "operator"),
    "a foreign function of C": ("import ctypes\nlib = ctypes.CDLL(None)", "lib.system", "ctypes"),
    "a reference to a function": ("import weakref\ndef f(m): ...\nrun = weakref.ref(f)", "run", "weakref"),
    "a mock": ("import unittest.mock\nrun = unittest.mock.Mock()", "run.anything.at_all", "unittest.mock"),
    "the compile function of re": ("import re", "re.compile", "re"),
    "a method of the bus's own machinery": (
        "from pipebus.config.kinds.imports import Imports\nimports = Imports(['os'])", "imports.find",
        "pipebus.config.kinds.imports",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "path", "home"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("place", [handler, filter, tap])
def test_what_an_allowed_module_only_imports_is_not_allowed(
    world: World, place: Callable[[str], str], source: str, path: str, home: str
) -> None:
    """An object belongs to its own module; otherwise each `import os` in an allowed package would give the file a shell."""
    world.module("tforeign", source)
    said = world.refused(place(f"tforeign:{path}"), "tforeign")
    assert said.endswith(f"it is defined in {home}, which is not in an allowed package; define it in tforeign")


@pytest.mark.parametrize("place", [handler, filter, model, exception, tap])
def test_a_module_is_nothing_that_can_be_used(world: World, place: Callable[[str], str]) -> None:
    """Neither an allowed module nor one that it imports can be used as an object."""
    world.module("tmodule", "import os, sys\nme = sys.modules[__name__]")
    for path in ("os", "me"):
        said = world.refused(place(f"tmodule:{path}"), "tmodule")
        assert said.endswith(
            ("it is not a function", "it is not a type", "it is not a class of exceptions", "define it in tmodule")
        ) or ("is not callable (module)" in said)


OWN = {
    "a function": ("def run(message, call_next): ...", "run"),
    "a function with one underscore": ("def _run(message, call_next): ...", "_run"),
    "a lambda": ("run = lambda message, call_next: None", "run"),
    "a partial": ("import functools\ndef f(a, message, call_next): ...\nrun = functools.partial(f, 1)", "run"),
    "a static method": ("class C:\n    @staticmethod\n    def run(message, call_next): ...", "C.run"),
    "a class method": ("class C:\n    @classmethod\n    def run(cls, message, call_next): ...", "C.run"),
    "a bound method": ("class C:\n    def run(self, message, call_next): ...\nc = C()", "c.run"),
    "an object that can be called": ("class C:\n    def __call__(self, message, call_next): ...\nc = C()", "c"),
    "a wrapped function": (
        "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def w(*a): ...\n    return w\n"
        "@deco\ndef run(message, call_next): ...", "run",
    ),
    "a function in a namespace": (
        "import types\nns = types.SimpleNamespace(run=lambda message, call_next: None)", "ns.run",
    ),
    "a filter made of one of ours": ("from pipebus.filters import Log\nrun = Log(level='debug')", "run"),
    "a chain made of ours": ("from pipebus import Pipeline\nfrom pipebus.filters import Log\nrun = Pipeline(Log())", "run"),
    "a filter class": ("from pipebus import Transform\nclass Run(Transform):\n    def transform(self, m, /): return m", "Run"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "path"), OWN.values(), ids=OWN)
def test_what_an_allowed_module_defines_can_be_named(world: World, source: str, path: str) -> None:
    """Every way that Python has to define it works."""
    world.module("towns", source)
    world.load(filter(f"towns:{path}"), "towns")


def test_a_neighbour_that_is_allowed_too_may_be_named_through_it(world: World) -> None:
    """Packages that collect names from other packages work if both are allowed."""
    world.module("tinner", "def run(message): ...")
    world.module("touter", "from tinner import run")
    assert "it is defined in tinner" in world.refused(handler("touter:run"), "touter")
    world.load(handler("touter:run"), "touter", "tinner")


def test_an_object_is_found_once_and_is_the_same(world: World) -> None:
    """A filter object that two entries name is one object with one state."""
    world.module("tsame", "from pipebus.filters import Dedupe\nonce = Dedupe()")
    bus = world.load(f"{filter('tsame:once')}\n{filter('tsame:once')}", "tsame")
    first, second = (node.filter for node in engine_of(bus).router.nodes)  # type: ignore[union-attr]
    assert first is second is sys.modules["tsame"].once


# --- modules that misbehave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("raise ValueError('no config')", "ValueError: no config"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("import tnowhere", "ModuleNotFoundError: No module named 'tnowhere'"),
        ("def f(:", "SyntaxError: "),
        ("def f(): f()\nf()", "RecursionError: "),
        ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
    ids=lambda value: value[:24],
)
def test_a_module_that_fails_is_a_problem_of_the_file(world: World, source: str, says: str) -> None:
    """Whatever it raises, the error says that the file is broken, and the program continues."""
    world.module("tfails", source)
    said = world.refused(handler("tfails:run"), "tfails")
    assert f'handler = "tfails:run": cannot import tfails: {says}' in said
    assert "\n" not in said


def test_ctrl_c_during_an_import_is_none_of_its_problems(world: World) -> None:
    """A user who interrupts the program interrupts it."""
    world.module("tctrlc", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        world.load(handler("tctrlc:run"), "tctrlc")


ODD = {
    "attributes that cannot be read": ("class P:\n    def __getattribute__(self, name): raise RuntimeError\nx = P()", "x"),
    "a proxy without an object": (
        "class P:\n    __class__ = property(lambda self: 1 / 0)\n    def __call__(self, message): ...\nx = P()", "x",
    ),
    "a property that fails": ("class P:\n    x = property(lambda self: 1 / 0)\np = P()", "p.x"),
    "a property that exits": ("import sys\nclass P:\n    x = property(lambda self: sys.exit(1))\np = P()", "p.x"),
    "a module whose names fail": ("def __getattr__(name): raise RuntimeError(name)", "x"),
    "a list of names that fails": ("def __dir__(): raise ValueError", "x"),
    "a list of odd names": ("def __dir__(): return ['', 'y']", "x"),
    "an object that has no truth": (
        "class P:\n    def __bool__(self): raise ValueError\n    def __eq__(self, other): raise ValueError\n"
        "    __hash__ = None\nx = P()", "x",
    ),
    "an object that cannot be shown": ("class P:\n    def __repr__(self): raise ValueError\nx = P()", "x"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "path"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("place", [handler, filter, model, condition])
def test_an_object_that_misbehaves_is_a_problem_of_the_file(
    world: World, place: Callable[[str], str], source: str, path: str
) -> None:
    """An allowed module may hold any object; loading ends with an error that names the line, and not with one of Python's."""
    world.module("todd", source)
    with pytest.raises(ConfigError) as caught:
        world.load(place(f"todd:{path}"), "todd")
    assert caught.value.problems[0].line


def test_a_module_is_not_run_for_a_name_that_has_not_the_form(world: World) -> None:
    """A name of the wrong form is refused before its module is imported."""
    world.module("tlast", "def run(message): ...")
    world.refused(handler("tlast:__globals__"), "tother")
    assert world.ran() == set()


def test_what_is_interpolated_never_says_what_is_imported(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable could otherwise choose which code runs, even in an allowed package. The error shows no secret."""
    world.module("tvar", "def run(message): ...")
    monkeypatch.setenv("TARGET", "tvar:run")
    for place in EVERYWHERE:
        said = world.refused(place("${env:TARGET}"), "tvar")
        assert "${env:TARGET}" in said
        assert "tvar" not in said
    assert world.ran() == set()


# --- types ---------------------------------------------------------------------------------------------------------------


def test_types_without_a_module(world: World) -> None:
    """Types of JSON and bytes need no module."""
    for name in ("bool", "bytes", "dict", "float", "int", "list", "str"):
        world.load(model(name))


@pytest.mark.parametrize(
    "name",
    ["eval", "exec", "__import__", "open", "object", "type", "Exception", "complex", "int | None", "list[int]", "None", ""],
)
def test_no_other_builtin_is_a_type_to_validate_with(world: World, name: str) -> None:
    """Only a short list of Python's names is accepted as types."""
    assert f'"{name}": it has to be' in world.refused(model(name))


MODELS = {
    "a model": ("import pydantic\nclass X(pydantic.BaseModel):\n    id: int", {"id": 1}),
    "a dataclass": ("import dataclasses\n@dataclasses.dataclass\nclass X:\n    id: int", {"id": 1}),
    "a plain class": ("class X: ...", None),
    "a list of models": ("import pydantic\nclass O(pydantic.BaseModel):\n    id: int\nX = list[O]", [{"id": 1}]),
    "a union": ("X = int | str", 5),
    "an optional": ("from typing import Optional\nX = Optional[int]", 5),
    "a literal": ("from typing import Literal\nX = Literal['a', 'b']", "a"),
    "an annotated type": ("from typing import Annotated\nfrom pydantic import Field\nX = Annotated[int, Field(gt=0)]", 5),
    "a dict": ("X = dict[str, int]", {"a": 1}),
    "an enum": ("import enum\nclass X(enum.Enum):\n    A = 'a'", "a"),
    "a typed dict": ("from typing_extensions import TypedDict\nclass X(TypedDict):\n    id: int", {"id": 1}),
    "a named tuple": ("from typing import NamedTuple\nclass X(NamedTuple):\n    id: int", [1]),
    "a datetime": ("from datetime import datetime as X", "2026-01-01T00:00:00Z"),
    "a decimal": ("from decimal import Decimal as X", "1.5"),
    "a uuid": ("from uuid import UUID as X", "12345678123456781234567812345678"),
    "anything": ("from typing import Any as X", object()),
    "a new type": ("from typing import NewType\nX = NewType('X', int)", 5),
}


@pytest.mark.parametrize(("source", "body"), MODELS.values(), ids=MODELS)
def test_types_of_an_allowed_module(world: World, source: str, body: Any) -> None:
    """Every type that `Validate` takes in code works, and so do the standard library's types of data under their own names."""
    world.module("tmodels", source)
    bus = world.load(model("tmodels:X"), "tmodels")
    if body is not None:
        bus.subscribe(">", name="reader")
        with bus:
            bus.publish("a", body)


CALLS = {
    "a function": ("def X(value): open(__file__ + '.called', 'w').close()", "X"),
    "a foreign function": ("from os import system as X", "X"),
    "eval": ("X = eval", "X"),
    "a function of typing": ("from typing import get_type_hints as X", "X"),
    "a function of types": ("from types import prepare_class as X", "X"),
    "a function of uuid": ("from uuid import getnode as X", "X"),
    "a bound method": ("class C:\n    def x(self, value): open(__file__ + '.called', 'w').close()\nX = C().x", "X"),
    "an object that can be called": (
        "class C:\n    def __call__(self, value): open(__file__ + '.called', 'w').close()\nX = C()", "X",
    ),
    "a partial": ("import functools, os\nX = functools.partial(os.system, 'x')", "X"),
    "a number": ("X = 5", "X"),
    "a text": ("X = 'int'", "X"),
    "a list": ("X = [int]", "X"),
    "none": ("X = None", "X"),
    "a module": ("import typing as X", "X"),
    "a type of pydantic's that imports": ("from pydantic import ImportString as X", "X"),
    "the same by a longer path": ("import pydantic", "pydantic.ImportString"),
    "a class of a foreign package": ("from subprocess import Popen as X", "X"),
    "a class below a foreign module": ("import subprocess", "subprocess.Popen"),
    "a reference that would be evaluated": ("from typing import ForwardRef\nX = ForwardRef('open(\"x\")')", "X"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "path"), CALLS.values(), ids=CALLS)
def test_a_model_is_a_type_and_nothing_that_is_called(world: World, source: str, path: str) -> None:
    """`models` checks bodies; it cannot be used to run a function on them."""
    world.module("tcalls", source)
    said = world.refused(model(f"tcalls:{path}"), "tcalls")
    assert said.endswith(("it is not a type", "which is not in an allowed package; define it in tcalls"))
    assert not (world.folder / "tcalls.py.called").exists()


@pytest.mark.parametrize("source", ["X = type", "X = map", "from types import FunctionType as X", "X = super", "X = property"])
def test_a_class_of_pythons_own_is_only_asked_whether_a_body_is_one(world: World, source: str) -> None:
    """A body is checked against the class, and no object of the class is made."""
    world.module("tisinstance", source)
    try:
        bus = world.load(model("tisinstance:X"), "tisinstance")
    except ConfigError:
        return
    bus.subscribe(">", name="reader")
    with bus:
        for body in (["print", [1]], {"code": "x", "globals": {}}, "x", 5):
            with pytest.raises(Rejected):
                bus.publish("a", body)


# --- exceptions ----------------------------------------------------------------------------------------------------------


def test_pythons_own_exceptions_go_by_their_names(world: World) -> None:
    """A list of them works too."""
    world.load(exception("ConnectionError"))
    world.load('[[pipelines]]\nfilters = [{ use = "retry", on = ["TimeoutError", "OSError"] }]')


@pytest.mark.parametrize(
    "name", ["eval", "int", "__import__", "print", "os", "NotImplemented", "ConnectionErrror", "valueerror", ""]
)
def test_what_is_no_exception_is_told_so(world: World, name: str) -> None:
    """Other names of Python's are not looked up."""
    assert f'Python has no exception "{name}"' in world.refused(exception(name))


def test_exceptions_of_an_allowed_module(world: World) -> None:
    """The class must be defined in an allowed package, and must be an exception."""
    world.module(
        "texc", "import socket\nfrom socket import gaierror\nclass Busy(Exception): ...\nclass Order: ...\ndef f(): ..."
    )
    world.load(exception("texc:Busy"), "texc")
    assert "which is not in an allowed package" in world.refused(exception("texc:gaierror"), "texc")
    assert world.refused(exception("texc:Order"), "texc").endswith("it is not a class of exceptions")
    assert world.refused(exception("texc:f"), "texc").endswith("it is not a class of exceptions")
    assert 'package "socket" is not allowed' in world.refused(exception("socket:gaierror"), "texc")


# --- the way back --------------------------------------------------------------------------------------------------------


def test_what_an_export_names_leads_back_to_the_same_object(world: World) -> None:
    """`name_of` is the inverse of `find`."""
    world.module("tback", "class C:\n    class D:\n        @staticmethod\n        def run(m): ...\ndef f(m): ...")
    for path in ("f", "C.D.run"):
        assert name_of(FUNCTION.read(f"tback:{path}", loading("tback"))) == f"tback:{path}"


@pytest.mark.parametrize(
    ("source", "path", "says"),
    [
        ("run = lambda m: m", "run", "a lambda"),
        ("import functools\ndef f(m): ...\nrun = functools.partial(f)", "run", "has no name that leads to it"),
        ("class C:\n    def f(self, m): ...\nc = C()\nrun = c.f", "run", "has no name that leads to it"),
        ("def outer():\n    def inner(m): ...\n    return inner\nrun = outer()", "run", "has no name that leads to it"),
        ("def run(m): ...\nold = run\ndef run(m): ...", "old", "leads to another object"),
    ],
)
def test_what_no_name_leads_to_is_told(world: World, source: str, path: str, says: str) -> None:
    """The export raises an error instead of writing a file that could not be loaded."""
    world.module("tlost", source)
    found = FUNCTION.read(f"tlost:{path}", loading("tlost"))
    with pytest.raises(Unexportable, match=says):
        name_of(found)


def test_the_home_of_things() -> None:
    """The home of an object is the module that wrote the code that would run."""
    import functools
    import os
    import shutil

    assert home_of(shutil.rmtree) == "shutil"
    assert home_of(functools.partial(functools.partial(os.system), "x")) == "posix"
    assert home_of(Message) == home_of(Message("a")) == "pipebus.message.message"
    assert home_of([].append) == "builtins"
    assert home_of(os) == "os"


@settings(deadline=None, max_examples=examples(50, 500), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.text(max_size=20),
        st.from_regex(r"[a-z_.]{1,8}:[a-z_.()]{1,8}", fullmatch=True),
        st.tuples(
            st.sampled_from(["os", "posix", "builtins", "sys", "subprocess", "pipebus"]), st.text("abc._", max_size=6)
        ).map(":".join),
    )
)
def test_whatever_a_file_names_is_refused_where_nothing_is_allowed(name: str) -> None:
    """Every name is refused in the same way, and no module is imported."""
    before = set(sys.modules)
    for allowed in ((), ("pipebus_is_no_such_package",)):
        with pytest.raises(Bad):
            FUNCTION.read(name, loading(*allowed))
    assert set(sys.modules) == before
