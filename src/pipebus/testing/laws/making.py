"""How check_filter makes a new filter each time, and which files have the filter's own lines."""

import copy
import dataclasses
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.objects import text_of
from pipebus.pipeline import recognise, routes, shapes
from pipebus.pipeline.callables import name_of
from pipebus.pipeline.compose import Node
from pipebus.pipeline.step import Step
from pipebus.testing.harness.simulate import is_own
from pipebus.testing.laws.case import copied
from pipebus.testing.simulation.locks import BETWEEN, renewed

PACKAGE: Final = os.path.join(os.path.dirname(sys.modules["pipebus"].__file__ or ""), "")
BUILT_IN: Final = os.path.join(PACKAGE, "filters", "")
LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")


def maker(filter: Any) -> Callable[[], Any]:
    """A function that makes a new filter each time; raise PipelineError if it can be neither made again nor copied."""
    kind: Any = type(filter)
    if isinstance(filter, type):
        return filter
    if isinstance(filter, Node):
        makers = {id(step.filter): maker(step.filter) for step in routes.steps((filter,))}
        return lambda: _chain(filter, {key: make() for key, make in makers.items()})
    if callable(filter) and _takes_nothing(filter):
        return filter  # type: ignore[no-any-return]
    if dataclasses.is_dataclass(filter) and fields_of(filter) is not None:
        return lambda: kind(**{name: copied(value) for name, value in (fields_of(filter) or {}).items()})
    try:
        pristine = _again(filter)
    except Exception as error:
        raise PipelineError(
            f"check_filter: each run needs a new filter, and {name_of(filter)} cannot be copied ({text_of(error)}); give a "
            "class or a function that makes one: check_filter(lambda: …)"
        ) from error
    return lambda: _again(pristine)


def _again(filter: Any) -> Any:
    """A copy of a filter, with what its function has in its closure."""
    if isinstance(filter, (shapes.FunctionTransform, shapes.FunctionAround)):
        return type(filter)(_again(filter.function))
    if not isinstance(filter, types.FunctionType) or not filter.__closure__:
        return renewed(filter)
    cells = [types.CellType(_again(cell.cell_contents)) for cell in filter.__closure__]
    again = types.FunctionType(filter.__code__, filter.__globals__, filter.__name__, filter.__defaults__, tuple(cells))
    again.__kwdefaults__ = filter.__kwdefaults__
    again.__dict__.update(filter.__dict__)
    return again


def _chain(chain: Node, filters: dict[int, Any]) -> Node:
    """A copy of a part of a chain, with other filters in it."""
    steps = routes.steps((chain,))
    again = {id(one): recognise.node(filters[id(one.filter)], one.position, one.place, one.within) for one in steps}
    return copy.deepcopy(chain, again)


def fields_of(filter: Any) -> dict[str, Any] | None:
    """The arguments by which a dataclass makes the same object; None if an `InitVar` is needed, which it does not keep."""
    found = {field.name: getattr(filter, field.name, None) for field in dataclasses.fields(filter) if field.init}
    return None if inspect.signature(type(filter)).parameters.keys() - found else found


def _takes_nothing(call: Any) -> bool:
    try:
        inspect.signature(call).bind()
    except (TypeError, ValueError):
        return False
    return True


def own_files(steps: Iterable[Step]) -> dict[str, bool]:
    """The files of filters, and of the modules of your own that they use: threads may change places inside each line."""
    files = {file for step in steps for function in _functions(step.filter) if _counts(file := function.__code__.co_filename)}
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) in files]
    for module in modules:
        for value in list(vars(module).values()):
            other = value if isinstance(value, types.ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            file = getattr(other, "__file__", None)
            if file is not None and file not in files and is_own(file):
                files.add(file)
                modules.append(other)  # type: ignore[arg-type]
    return dict.fromkeys(files, False)


def _counts(file: str) -> bool:
    if file in BETWEEN or file.startswith(PACKAGE):
        return file.startswith(BUILT_IN)
    return not file.startswith(LIBRARY) or "site-packages" in file


def _functions(filter: Any) -> Iterator[Any]:
    """The functions of a filter, and those that its decorators wrap."""
    while isinstance(filter, functools.partial):
        filter = filter.func
    candidates = [filter, getattr(filter, "function", None), getattr(filter, "__func__", None)]
    for cls in type(getattr(filter, "__self__", filter)).__mro__:
        candidates += vars(cls).values()
    for one in candidates:
        while one is not None:
            if isinstance(one, types.FunctionType):
                yield one
            one = getattr(one, "__wrapped__", None)
