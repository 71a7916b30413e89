"""
Planning a subscription: checking its options, binding its handler and making the rules of its mailbox.

Subscriptions with equal settings share one plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from pipebus.delivery import binding
from pipebus.delivery.plan import Hub, Plan
from pipebus.delivery.subscription import Subscription
from pipebus.errors import PipelineError, SubscriptionError, UnsupportedCapability
from pipebus.foreign.objects import class_name, plain_text, shown
from pipebus.mailbox.claims import Claims
from pipebus.message.message import Message
from pipebus.message.outcomes import Handled
from pipebus.message.patterns import Pattern
from pipebus.message.subject import Address, no_address, not_carried
from pipebus.pipeline import callables, pipeline, recognise, routes
from pipebus.pipeline import rules as chain_rules
from pipebus.pipeline.compose import Node
from pipebus.pipeline.places import Place
from pipebus.running.here import current_mailbox
from pipebus.running.loops import LoopRunner
from pipebus.running.pool import Pool
from pipebus.running.starts import Starts
from pipebus.running.timers import Timers
from pipebus.values import defaults
from pipebus.values.quantities import Duration, is_whole, seconds

DEFAULTS: Final[dict[str, Any]] = {
    "to": None, "workers": defaults.WORKERS, "run": None, "mailbox": defaults.MAILBOX_SIZE,
    "overflow": defaults.OVERFLOW, "overflow_timeout": defaults.OVERFLOW_TIMEOUT, "attempts": defaults.ATTEMPTS,
    "deliver": defaults.DELIVER,
}  # fmt: skip
"""The options of `subscribe` and their defaults, apart from `name` and `filters`."""

EXACT: Final = (int, str, float, type(None))
"""Types of options that have no subclass of text in them, whose hash could be anything."""

READER: Final = "reader"
"""In place of the handler, for subscriptions that are read."""

PLANS: Final = 64
"""How many plans are kept for further subscriptions with the same handler and options."""


class Machinery(Hub, Protocol):
    """The parts of a bus that plans and mailboxes are made from."""

    transport: Any
    claims: Claims
    pool: Pool
    loops: LoopRunner
    timers: Timers
    starts: Starts
    address: Callable[[Any], Any]
    pool_is_given: bool
    name: str
    url: str


class Planner:
    """
    Makes plans for one bus.

    Args:
        known: Types of handlers' parameters that the bus itself fills in, and how.
    """

    def __init__(self, bus: Machinery, known: dict[Any, Callable[[Message[Any]], Any]]) -> None:
        self.bus = bus
        self.known = known
        self._plans: dict[Any, Plan] = {}

    def subjects(self, subject: Any, word: str = "subscribe") -> Any:
        """
        What a subscription listens to: a literal subject as text, a wildcard as a `Pattern`, an object as it is; if there are
        several, a tuple of these.

        Args:
            word: The method that errors name.

        Raises:
            SubscriptionError: an empty list. SubjectError: a bad pattern, or no subject at all.
            UnsupportedCapability: an object, on a transport that carries none.
        """
        if isinstance(subject, (list, tuple, set)):
            found = tuple(self.subjects(one, word) for one in dict.fromkeys(map(self.bus.address, subject)))
            if not found:
                raise SubscriptionError("a subscription needs a subject; the list is empty")
            return found[0] if len(found) == 1 else found
        subject = self.bus.address(subject)
        if isinstance(subject, str):
            pattern = Pattern(subject)
            return pattern.text if pattern.literal else pattern
        if isinstance(subject, Address):
            if not self.bus.transport.capabilities.objects:
                raise not_carried(subject, self.bus.url)
            return subject
        raise no_address(subject, word)

    def plan(self, handler: Any, place: Place, name: str | None, filters: Any, **options: Any) -> Plan:
        """
        The plan for these settings; equal settings share one, except with `run="thread"`.

        Raises:
            SubscriptionError, SubjectError, PipelineError, UnsupportedCapability: the text names the mistake.
        """
        given, options = _given(filters, name, place), _plain(options)
        key, plan = self._kept(handler if handler is not None else READER, given, options)
        if plan is None:
            plan = self._make(handler, place, name, given, **options)
            self._keep(key, plan)
        return plan

    def actor_plan(self, actor: Any, place: Place, filters: Any, **options: Any) -> Plan:
        """The plan for an actor; actors with the same class and settings share one."""
        cls = type(actor)
        own = not {"on_message", "filter"}.isdisjoint(getattr(actor, "__dict__", ()))  # not those of its class
        given, options = _given(filters, cls.__name__, place), _plain(options)
        key, plan = self._kept(None if own else cls, given, options)
        if plan is None:
            asked = callable(getattr(actor, "filter", None))
            if options["run"] is None and asked and callables.is_async(actor.filter):
                options["run"] = "loop"
            plan = self._make(actor.on_message, place, plain_text(actor.name) or cls.__name__, given, asked, **options)
            if plan.run_on != "loop" and callables.is_async(getattr(actor, "filter", None)):
                raise SubscriptionError(
                    f"{cls.__name__} (at {place}): run={shown(plan.run_on)}, but its filter is async; "
                    'leave `run` out, or use "loop"'
                )
            bound = plan.bound
            if bound is not None:  # shared by the class, so it must not keep this actor alive
                bound.name, bound.handler, bound.call = cls.__name__, cls.on_message, _nobody
            self._keep(key, plan)
        return plan

    def forget(self, filters: list[Any]) -> None:
        """Keep no plan that contains one of these filters."""
        for key, plan in list(self._plans.items()):
            if any(step.filter is one for step in routes.steps(plan.nodes) for one in filters):
                self._plans.pop(key, None)

    def _kept(self, what: Any, filters: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Plan | None]:
        """
        The plan that was made for equal settings, and the key to keep a new one under.

        Args:
            what: The handler, READER or the class of the actor. None: the plan cannot be shared.
        """
        if what is None or options["run"] == "thread":  # which has threads of its own
            return None, None
        key = (what, filters, *options.values())
        try:
            return key, self._plans.get(key)
        except TypeError:  # something in it is not hashable
            return None, None

    def _keep(self, key: Any, plan: Plan) -> None:
        if key is None:
            return
        if len(self._plans) >= PLANS:
            self._plans.clear()
        self._plans[key] = plan

    def _make(
        self,
        handler: Any,
        place: Place,
        name: str | None,
        filters: tuple[Any, ...],
        asked: bool = False,
        *,
        to: Any,
        workers: int,
        run: Any,
        mailbox: int,
        overflow: Any,
        overflow_timeout: Duration,
        attempts: int,
        deliver: str,
        reads: Any = None,
    ) -> Plan:
        """
        A new plan.

        Args:
            asked: Whether it is for filter actors. Handlers wait for their answers, so the pool may run them first.
            reads: The type of the bodies that a reader gets; None: they are not validated.
        """
        title = name or (binding.handler_name(handler) if handler is not None else "pull")

        def bad(text: str) -> SubscriptionError:
            return SubscriptionError(f"subscription {title} (at {place}): {text}")

        for option, value in (("workers", workers), ("mailbox", mailbox), ("attempts", attempts)):
            if not is_whole(value, 1):
                raise bad(f"{option}={shown(value)}; it is a whole number of at least 1")
        if overflow not in defaults.OVERFLOWS:
            raise bad(f'overflow={shown(overflow)}; it is "block", "reject", "drop_newest" or "drop_oldest"')
        try:
            timeout = math.inf if overflow_timeout == math.inf else seconds(overflow_timeout, "overflow_timeout")
        except PipelineError as error:
            raise bad(str(error)) from None
        if deliver not in ("new", "all", "last"):
            raise bad(f'deliver={shown(deliver)}; it is "new", "all" or "last"')
        if deliver != "new" and not self.bus.transport.capabilities.replay:
            raise UnsupportedCapability(f'subscription {title}: this transport keeps no messages, so deliver must be "new"')
        if run not in (None, "pool", "thread", "loop"):
            raise bad(f'run={shown(run)}; it is "pool", "thread" or "loop"')
        to = self.bus.address(to)
        self._check_to(to, bad)
        bound = binding.bind(handler, self.known, place, name) if handler is not None else None
        if bound is None and workers > 1:
            raise bad("workers are for handlers; a subscription without a handler is read with receive()")
        if bound is None and to is not None:
            raise bad("`to` is for what a handler returns; this subscription has no handler")
        if bound is None and run is not None:
            raise bad(f"run={shown(run)} is for handlers; a subscription without a handler is read with receive()")
        run_on = "pull" if bound is None else run or ("loop" if bound.is_async else "pool")
        if bound is not None and bound.is_async and run_on != "loop":
            raise bad(f'its handler is async, so run="{run_on}" cannot await it; leave `run` out, or make it a plain `def`')
        pool = None
        if run_on == "thread":
            pool = Pool(
                workers, self.bus.clock, f"{self.bus.name}-{title}", lambda ready, workers: None, alone=True,
                starts=self.bus.starts, locks=self.bus.claims.locks,
            )  # fmt: skip
        elif run_on == "pool" and workers > 1:
            self._grow_pool(workers, bad)
        enlist, call = {
            "pool": (self.bus.pool.enlist_first if asked else self.bus.pool.ready.append, self.bus.pool.call),
            "thread": (pool.ready.append, pool.call) if pool is not None else (_nothing, _wake_reader),
            "loop": (self.bus.loops.enlist, self.bus.loops.call),
            "pull": (_nothing, _wake_reader),
        }[run_on]
        own = recognise.nodes(filters, place, f"filters of {title}")
        plan = Plan(
            self.bus,
            bound,
            own,
            to=to,
            run_on=run_on,
            attempts=attempts,
            deliver=deliver,
            reads=reads,
            read=Handled if reads is None else binding.reading(reads, title, place),
            **self.machinery(),
            size=mailbox,
            overflow=overflow,
            timeout=timeout,
            workers=workers,
            pull=bound is None,
            enlist=enlist,
            call=call,
            hurry=self.bus.pool.hurry if asked and run_on == "pool" else None,
        )
        plan.pool = pool
        return plan

    def machinery(self) -> dict[str, Any]:
        """What all mailboxes of this bus use."""
        bus = self.bus
        return {
            "claims": bus.claims, "clock": bus.clock, "later": bus.timers.after, "blocking": bus.pool.lent, "mine": _mine,
        }  # fmt: skip

    def _check_to(self, to: Any, bad: Callable[[str], SubscriptionError]) -> None:
        if isinstance(to, Address) and not self.bus.transport.capabilities.objects:
            raise not_carried(to, self.bus.url, "to")
        if to is None or isinstance(to, Address):
            return
        if not isinstance(to, str):
            raise bad(f"to={shown(to)}; it is a subject, an actor or Ref(obj)")
        if not Pattern(to).literal:
            raise bad(f"to={shown(to)} has a wildcard, but messages are published to it; give a literal subject")

    def _grow_pool(self, workers: int, bad: Callable[[str], SubscriptionError]) -> None:
        """Make the pool so large that this subscription alone cannot occupy all of its workers."""
        pool = self.bus.pool
        if pool.size > workers:
            return
        if self.bus.pool_is_given:
            raise bad(f"workers={workers} would take every worker of Bus(pool={pool.size}); make the pool larger")
        pool.size = workers + 1


def check_delivery(subscription: Subscription, bus_nodes: tuple[Node, ...]) -> None:
    """
    Check the whole delivery chain of a subscription: the bus's filters and its own.

    Raises:
        PipelineError: a filter cannot be where it is; the text names it and the remedy.
    """
    plan = subscription.plan
    chain = (*bus_nodes, *plan.nodes)
    if not chain or subscription.answers:
        return
    title, subjects = subscription.name, subscription.subjects
    chain_rules.check(bus_nodes, "delivery", own=plan.nodes)
    chain_rules.check_applicable(plan.nodes, subjects, title)
    if plan.bound is None:
        for step in routes.steps(plan.nodes):
            if step.shape != "transform":
                raise PipelineError(
                    f"filter {step.name} ({step.where}) wraps a handler, but {title} has none; make it a Transform"
                )
        return
    for step in routes.steps(chain):
        if (step.traits.needs_attempts or 0) > plan.attempts:
            raise PipelineError(
                f"filter {step.name} ({step.where}) has attempts={step.traits.needs_attempts}, but subscription {title} allows "
                f"{plan.attempts}; give the subscription attempts={step.traits.needs_attempts}, or the filter at most "
                f"{plan.attempts}"
            )
    colour = "async" if plan.bound.is_async else "sync"
    chain_rules.check_colour(chain, colour, f"handler {plan.bound.name} is {colour}")
    actor = getattr(subscription, "actor", None)  # not asked about messages to itself, so it does not wait here
    waiting = next((step for step in routes.steps(chain) if step.traits.waits and step.filter is not actor), None)
    if plan.run_on == "loop" and colour == "sync" and waiting is not None:
        raise PipelineError(
            f"filter {waiting.name} ({waiting.where}) may wait, and would stop the event loop that the plain handler "
            f'{plan.bound.name} runs on; make the handler `async def`, or leave run="loop" out'
        )


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value if type(value) in EXACT else plain_text(value) for name, value in options.items()}


def _given(filters: Any, name: str | None, place: Place) -> tuple[Any, ...]:
    if isinstance(filters, pipeline.Pipeline):
        return (filters,)
    try:
        return tuple(filters)
    except TypeError:
        text = f"filters is a {class_name(filters)}; it is a list of filters, or a Pipeline: write filters=[…]"
        raise SubscriptionError(f"subscription {name or 'without a name'} (at {place}): {text}") from None


def _nobody(message: Message[Any]) -> Any:
    raise NotImplementedError("an actor's subscription calls the actor")


def _nothing(mailbox: Any) -> None:
    """For readers, who look into the mailbox themselves."""


def _wake_reader(mailbox: Any) -> None:
    mailbox.inbox.wake()


def _mine(mailbox: Any) -> bool:
    return current_mailbox() is mailbox
