"""How check_filter makes a new filter each time."""

import copy
import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any

from pipebus.errors import PipelineError
from pipebus.foreign.objects import text_of
from pipebus.pipeline import recognise, routes, shapes
from pipebus.pipeline.callables import name_of
from pipebus.pipeline.compose import Node
from pipebus.testing.laws.case import copied
from pipebus.testing.simulation.locks import renewed


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
