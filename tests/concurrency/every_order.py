"""
Run real functions as threads of single steps, in every order that there is.

`stepwise` compiles the source of a function again, as a generator that stops before each statement that other threads could
notice or influence, before each such operand of `and` and `or`, and where it would take a lock. So what is explored is the code
itself, not a model of it. What one statement does is taken to happen at once. (The seeded scheduler explores what happens
within one.)

`explore` then tries every order of the steps of some threads, from the same beginning: depth first, and each state once. A
state is all that the threads share, and where each thread is with what its local variables hold.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

Steps = Generator[Any, None, Any]


class Lock:
    """A reentrant lock; `running` is the thread whose step it is."""

    running: str = ""

    def __init__(self) -> None:
        self.owner: str | None = None
        self.times = 0

    def _is_owned(self) -> bool:
        return self.owner == Lock.running


def taken(lock: Lock) -> Steps:
    """Wait for a lock, and take it."""
    me = Lock.running
    yield lambda: lock.owner in (None, me)
    lock.owner = me
    lock.times += 1


def given_back(lock: Lock) -> None:
    lock.times -= 1
    if not lock.times:
        lock.owner = None


VISIBLE: Final = frozenset({"box", "attention", "room", "rest"})
"""Attributes that threads read without the lock. All others are constant, or only used by a thread that has the lock."""

QUIET_CALLS: Final = frozenset(
    {"deque", "unattended", "isinstance", "own_rare", "refuses", "set_aside", "Waiter", "bool", "count_drop"}
)
"""Functions that touch nothing visible."""


def is_local(node: ast.AST) -> bool:
    """Whether other threads neither notice nor influence a statement or an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and part.attr in VISIBLE:
            return False
        if isinstance(part, ast.Call) and getattr(part.func, "id", None) not in QUIET_CALLS:
            return False
        if isinstance(part, (ast.Delete, ast.Subscript, ast.In, ast.NotIn)):
            return False
    return True


def pause_before(node: ast.AST) -> list[ast.stmt]:
    return [] if is_local(node) else [ast.Expr(ast.Yield(None))]


class _Stepwise(ast.NodeTransformer):
    """Turns a function into a generator of its steps. Calls of functions in `names` are stepped through too."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.number = 0

    def name(self) -> str:
        self.number += 1
        return f"_{self.number}"

    # --- expressions: a call of a stepwise function is stepped through --------------------------------------------------

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
        return ast.YieldFrom(node) if called in self.names else node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node

    # --- statements ------------------------------------------------------------------------------------------------------

    def steps(self, body: list[ast.stmt]) -> list[ast.stmt]:
        return [step for statement in body for step in self.statement(statement)]

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.If):
            pause = pause_before(_first(node.test))
            before, test = self.operands(node.test)
            return [*pause, *before, ast.If(test, self.steps(node.body), self.steps(node.orelse))]
        if isinstance(node, ast.While):
            pause = pause_before(_first(node.test))
            before, test = self.operands(node.test)
            leave = ast.If(ast.UnaryOp(ast.Not(), test), [ast.Break()], [])
            return [ast.While(ast.Constant(True), [*pause, *before, leave, *self.steps(node.body)], [])]
        if isinstance(node, ast.For):
            return [*pause_before(node.iter), ast.For(node.target, self.visit(node.iter), self.steps(node.body), [])]
        if isinstance(node, ast.Try):
            handlers = [ast.ExceptHandler(one.type, one.name, self.steps(one.body)) for one in node.handlers]
            if handlers:  # a generator that is given up is not interrupted
                handlers.insert(0, ast.ExceptHandler(ast.Name("GeneratorExit", ast.Load()), None, [ast.Raise()]))
            body = (
                [ast.Try(self.steps(node.body), handlers, self.steps(node.orelse), [])] if handlers else self.steps(node.body)
            )
            return self.finally_(body, self.steps(node.finalbody)) if node.finalbody else body
        if isinstance(node, ast.With):
            lock = ast.Name(self.name(), ast.Load())
            keep = ast.Assign([ast.Name(lock.id, ast.Store())], node.items[0].context_expr)
            take = ast.Expr(ast.YieldFrom(ast.Call(ast.Name("taken", ast.Load()), [lock], [])))
            back = ast.Expr(ast.Call(ast.Name("given_back", ast.Load()), [lock], []))
            return [keep, take, ast.Try(self.steps(node.body), [], [], [back])]
        if isinstance(node, (ast.Return, ast.Assign)) and isinstance(node.value, ast.BoolOp):
            pause = pause_before(_first(node.value))
            before, node.value = self.operands(node.value)
            return [*pause, *before, node]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return []
        return [*pause_before(node), self.visit(node)]

    def finally_(self, body: list[ast.stmt], final: list[ast.stmt]) -> list[ast.stmt]:
        """`try` and `finally`, except where the generator is given up."""
        name = self.name()
        given_up = ast.Assign([ast.Name(name, ast.Store())], ast.Constant(True))
        end = ast.ExceptHandler(ast.Name("GeneratorExit", ast.Load()), None, [given_up, ast.Raise()])
        inner = ast.Try(body, [end], [], [])
        last = ast.If(ast.UnaryOp(ast.Not(), ast.Name(name, ast.Load())), final, [])
        return [ast.Assign([ast.Name(name, ast.Store())], ast.Constant(False)), ast.Try([inner], [], [], [last])]

    def operands(self, test: ast.expr) -> tuple[list[ast.stmt], ast.expr]:
        """Each further operand of `and` and `or` is a step of its own."""
        if not isinstance(test, ast.BoolOp):
            return [], self.visit(test)
        name = self.name()
        found: list[ast.stmt] = []
        for number, operand in enumerate(test.values):
            before, value = self.operands(operand)
            keep: list[ast.stmt] = [*before, ast.Assign([ast.Name(name, ast.Store())], value)]
            if number:
                so_far: ast.expr = ast.Name(name, ast.Load())
                goes_on = so_far if isinstance(test.op, ast.And) else ast.UnaryOp(ast.Not(), so_far)
                keep = [ast.If(goes_on, [*pause_before(_first(operand)), *keep], [])]
            found += keep
        return found, ast.Name(name, ast.Load())


def _first(test: ast.expr) -> ast.expr:
    """What is evaluated first."""
    return _first(test.values[0]) if isinstance(test, ast.BoolOp) else test


def stepwise(functions: Iterable[Callable[..., Any]], breaks: dict[str, tuple[str, str]] | None = None) -> dict[str, Any]:
    """
    The same functions as generators of their steps, by name.

    Args:
        breaks: Functions to break first, by name: a piece of their source, and its replacement.
    """
    functions = list(functions)
    names = frozenset(function.__name__ for function in functions)
    made: dict[str, Any] = {}
    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))
        if breaks and function.__name__ in breaks:
            old, new = breaks[function.__name__]
            assert source.count(old) == 1, f"{function.__name__} has {source.count(old)} times {old!r}"
            source = source.replace(old, new)
        [tree] = ast.parse(source).body
        assert isinstance(tree, ast.FunctionDef)
        tree.body = _Stepwise(names).steps(tree.body)
        tree.body.append(ast.If(ast.Constant(False), [ast.Expr(ast.Yield(None))], []))  # so that each is a generator
        tree.decorator_list = []
        tree.returns = None
        for argument in (*tree.args.args, *tree.args.kwonlyargs):
            argument.annotation = None
        module = ast.fix_missing_locations(ast.Module([tree], []))
        space = {**function.__globals__, "taken": taken, "given_back": given_back}
        exec(compile(module, f"<every order: {function.__name__}>", "exec"), space)
        made[function.__name__] = space[function.__name__]
    for one in made.values():
        one.__globals__.update({name: other for name, other in made.items() if name in one.__globals__})
    return made


# --- exploring ----------------------------------------------------------------------------------------------------------


class Wrong(Exception):
    """Something was promised, and is not so."""


@dataclass
class Thread:
    """One thread of a world: its generator, and what it waits for."""

    name: str
    steps: Steps
    may_be_interrupted: bool = False
    ready: Callable[[], object] | None = None
    ended: bool = False
    error: BaseException | None = None

    def can_go(self) -> bool:
        return not self.ended and (self.ready is None or bool(self.ready()))

    def go(self, interrupt: bool = False) -> None:
        """One step."""
        Lock.running = self.name
        try:
            self.ready = self.steps.throw(KeyboardInterrupt()) if interrupt else next(self.steps)
        except StopIteration:
            self.ended = True
        except Wrong:
            raise
        except BaseException as error:
            self.ended, self.error = True, error

    def place(self, key: Callable[[Any], Any]) -> Any:
        """Where it is, and what its local variables hold."""
        if self.ended:
            return "ended"
        frames = []
        steps: Any = self.steps
        while steps is not None and hasattr(steps, "gi_frame"):
            frame = steps.gi_frame
            frames.append(
                (frame.f_code.co_name, frame.f_lasti, tuple((name, key(one)) for name, one in sorted(frame.f_locals.items())))
            )
            steps = steps.gi_yieldfrom
        return tuple(frames)


@dataclass
class World:
    """What some threads share. A scenario makes a new one for each order that is tried."""

    threads: list[Thread] = field(default_factory=list)
    interrupts: int = 0

    def shared_key(self, key: Key) -> Any:
        """All that the threads share and that changes."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises `Wrong` if a promise is broken, in any state."""

    def at_the_end(self) -> None:
        """The same, where no thread can go on."""


PLAIN: Final = (type(None), bool, int, str, float)


class Key:
    """Makes equal states equal: objects by what they hold, and by which of them are the same one."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, tuple):
            return tuple(self(one) for one in value)
        if isinstance(value, (deque, list)):
            known = self.numbers.get(id(value))
            if known is not None:
                return known
            self.numbers[id(value)] = len(self.numbers)
            return (type(value).__name__, len(self.numbers), tuple(self(one) for one in value))
        if isinstance(value, dict):
            return tuple((self(name), self(one)) for name, one in value.items())
        if isinstance(value, frozenset):
            return value
        key = getattr(value, "state_key", None)
        return key(self) if key is not None and not isinstance(value, (type, ModuleType)) else type(value).__name__


@dataclass
class Found:
    """What an exploration has seen."""

    states: int
    error: str | None = None
    order: list[str] = field(default_factory=list)
    finished: bool = True


def explore(make: Callable[[], World], *, interrupts: int = 0, most: int = 2_000_000) -> Found:
    """
    Try every order of the threads' steps.

    Args:
        interrupts: At most so many KeyboardInterrupts, each before any step of a thread that may be interrupted.
        most: Give up after so many states.
    """
    seen: dict[int, list[int]] = {}  # each state, and those that it was reached from
    orders: dict[int, list[int]] = {}
    finals: list[int] = []
    todo: list[list[int]] = [[]]
    while todo:
        order = todo.pop()
        world = make()
        before = 0
        try:
            for choice in order[:-1]:
                _take(world, choice)
            if order:
                before = _state(world)
                _take(world, order[-1])
            while True:
                state = _state(world)
                if state in seen:
                    seen[state].append(before)
                    break
                seen[state] = [before]
                orders[state] = list(order)
                if len(seen) > most:
                    return Found(len(seen), finished=False)
                world.check()
                choices = [number for number, thread in enumerate(world.threads) if thread.can_go()]
                if world.interrupts < interrupts:
                    choices += [
                        -1 - number for number, thread in enumerate(world.threads)
                        if thread.may_be_interrupted and not thread.ended
                    ]  # fmt: skip
                if not choices:
                    world.at_the_end()
                    finals.append(state)
                    break
                todo.extend([*order, choice] for choice in choices[1:])
                order.append(choices[0])
                before = state
                _take(world, choices[0])
        except Wrong as error:
            return Found(len(seen), str(error), _told(make, order))
    # A thread may look again and again at the same state. From each state there must be a way to an end.
    reach = set(finals)
    while finals:
        for state in seen[finals.pop()]:
            if state in seen and state not in reach:
                reach.add(state)
                finals.append(state)
    for state in seen:
        if state not in reach:
            return Found(len(seen), "no thread can bring this to an end", _told(make, orders[state]))
    return Found(len(seen))


def _state(world: World) -> int:
    key = Key()
    return hash((world.shared_key(key), tuple(thread.place(key) for thread in world.threads), world.interrupts))


def _take(world: World, choice: int) -> None:
    if choice < 0:
        world.interrupts += 1
    world.threads[choice if choice >= 0 else -1 - choice].go(interrupt=choice < 0)


def _told(make: Callable[[], World], order: list[int]) -> list[str]:
    """The steps of an order, in words."""
    world = make()
    told: list[str] = []
    for choice in order:
        thread = world.threads[choice if choice >= 0 else -1 - choice]
        place = thread.place(Key())
        where = " > ".join(f"{name}@{at}" for name, at, _ in place) if place != "ended" else place
        told.append(f"{thread.name}{' is interrupted' if choice < 0 else ''}: {where}")
        try:
            _take(world, choice)
        except Wrong as error:
            told.append(str(error))
    return told
