"""The law on messages that pass a filter at the same time."""

from collections.abc import Iterator
from typing import Any, Final

from pipebus.message.message import Message
from pipebus.testing.alone.bench import whose
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.alone.script import after
from pipebus.testing.laws.apart import PLANS, InTurn, Passed, again, difference, in_turn, otherwise, parts
from pipebus.testing.laws.case import BOUNDLESS, ENDLESS, PATIENCE, Case, Ending, Problems, given
from pipebus.testing.laws.orders import Orders
from pipebus.testing.simulation import explore, threads, watch
from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.threads import Stuck
from pipebus.testing.simulation.turns import Turns

MOST_PLACES: Final = 60
"""At how many places in the filter's own lines the first message is interrupted, at most."""

SEEDS: Final = 15
"""How many random orders of lines are tried."""

FAILS: Final[tuple[Ending, ...]] = ("fails", "fails", "fails")


def is_safe_under_concurrency(case: Case) -> Problems:
    """It does not mix up messages that pass at the same time, no matter which of its lines runs when."""
    with watch.all_code(case.tested.files):
        for colour in case.colours:
            for plan in (PLANS[0], FAILS):
                reference = in_turn(case, colour, plan)
                if reference.problem is not None and plan is FAILS:
                    continue  # what it does after an error is not judged by what a new filter does
                problem = (_on_a_loop if colour == "async" else _on_threads)(case, reference)
                if problem is not None:
                    yield problem
            case.tested.explored.add(colour)


class Together:
    """
    Some messages that pass one filter at the same time; the rest `waits` so many hundredths of a second with each.

    Args:
        orders: What becomes of them one after the other; None: not to be judged by that.
    """

    def __init__(
        self, case: Case, colour: str, reference: InTurn, count: int, waits: tuple[int, ...] = (), orders: Orders | None = None
    ) -> None:
        self.case = case
        self.colour = colour
        self.reference = reference
        self.given = reference.given[:count] if orders is None else orders.given
        self.waits = waits
        self.orders = orders
        self.forwards: list[tuple[int | None, Message[Any]]] = []
        self.__name__ = f"{len(self.given)} messages at once"

    def __call__(self, sim: Simulation) -> None:
        """The scenario of one simulation."""
        problem = self.problem()
        sim.check(problem is None, f"of {self.__name__}, {problem}")

    def problem(self) -> str | None:
        self.forwards = []
        given, due, new, steady, problem = self.reference
        with self.case.bench(self.colour, self._rest) as bench:
            try:
                ends = bench.together([again(message) for message in self.given])
            except Stuck as error:
                return f"none can go on: {error}"
            bench.harness._simulation.end_story()
            run = FilterRun(f"{self.__name__} through {self.case.tested.title}", given[0])
            run.moments = list(bench.harness.tape.moments)
            self.case.runs = [run]
        passed = [Passed(end, [message for of, message in self.forwards if of == number]) for number, end in enumerate(ends)]
        alike = problem is None and self.given[0].id != self.given[1].id  # to what a new filter does with each
        for number, found in enumerate(passed if alike else ()):
            problem = difference(self.case, number, found, given, due, new)
            if problem is not None:
                return problem
            chosen = self.case.tested.chose(found.end, new[number]._error or new[number]._outcome)
            if steady[number] and not chosen and parts(found.forwards) != parts(new[number].forwards):
                return otherwise("handed on", number, found.forwards, new[number].forwards)
        return None if self.orders is None else self.orders.problem(passed)

    def _rest(self, message: Message[Any]) -> Any:
        number = whose.get()
        self.forwards.append((number, message))
        if len(self.forwards) > BOUNDLESS:
            raise KeyboardInterrupt(ENDLESS)
        sim = threads.here()
        if sim is not None:
            sim.step()  # threads may change places here too
        due = self.reference.due[number or 0]
        return after(0.01 * self.waits[number or 0], due) if self.waits and sim is not None else given(due)


def _on_a_loop(case: Case, reference: InTurn) -> str | None:
    """Tasks change places where they wait: the first is the slowest, then the last."""
    for orders in _serial(case, "async", reference, 3):
        for waits in ((3, 2, 1), (1, 2, 3)):
            together = Together(case, "async", reference, 3, waits, orders)
            problem = together.problem()
            while problem is not None and orders is not None and orders.more():
                problem = together.problem()
            if problem is not None:
                return f"of {together.__name__}, {problem}"
    return None


def _serial(case: Case, colour: str, reference: InTurn, count: int) -> Iterator[Orders | None]:
    """What becomes of so many messages one after the other; and of the same message several times, if it may drop any."""
    if isinstance(reference.due[0], BaseException):
        yield None  # errors that come one by one may teach a filter what those that come at once do not
        return
    yield Orders(case, colour, reference.given[:count], reference.due)
    if case.tested.ends_freely:
        yield Orders(case, colour, reference.given[:1] * 2, reference.due)


def _on_threads(case: Case, reference: InTurn) -> str | None:
    """Threads change places while the rest waits; then the second message passes at each line of the first; then at random."""
    tested = case.tested
    for scenario, seed, options in _orders(case, reference):
        sim = explore.run(scenario, seed, files=tested.files, patience=PATIENCE, **options)
        while sim.failure is not None and not sim.lost and scenario.orders is not None and scenario.orders.more():
            sim = explore.run(scenario, seed, files=tested.files, patience=PATIENCE, **options)
        if sim.lost:  # it waits for something outside the scheduler's control
            tested.untried.add("is safe under concurrency")
            return None
        if sim.failure is not None:
            return _with_story(case, scenario, seed, sim)
    return None


def _orders(case: Case, reference: InTurn) -> Iterator[tuple[Together, int, dict[str, Any]]]:
    yield Together(case, "sync", reference, 3, (3, 2, 1)), 0, {"turns": {}}
    if "sync" in case.tested.explored:
        return  # with other messages
    steps, most = 0, MOST_PLACES // (2 if case.tested.ends_freely else 1)
    for orders in _serial(case, "sync", reference, 2):
        two = Together(case, "sync", reference, 2, orders=orders)
        sim = explore.run(two, 0, files=case.tested.files, patience=PATIENCE, turns={})
        first, second = (next(task for task in sim.all_tasks if task.name == f"message {number}") for number in (1, 2))
        steps = max(steps, first.steps)
        places = range(1, first.steps + 1, 1 + first.steps // most)
        for place in places if orders is not None else ():
            turns: Turns = {(first.number, place, True): second.number}
            yield two, 0, {"turns": turns}
    orders = next(_serial(case, "sync", reference, 3))
    for seed in range(SEEDS):
        yield Together(case, "sync", reference, 3, orders=orders), seed, {"within": max(10, 3 * steps)}


def _with_story(case: Case, scenario: Together, seed: int, sim: Simulation) -> str:
    """What was wrong, with the story of a run that has only the changes of threads that matter."""
    sim = explore.shortest(scenario, seed, sim, files=case.tested.files, patience=PATIENCE)
    if sim.story is not None:
        case.story = "\n".join([f"{scenario.__name__}, each on a thread of its own", *sim.story.lines()])
    return "\n  ".join([sim.failure or "", *(sim.ending if "no thread can go on" in (sim.failure or "") else [])])
