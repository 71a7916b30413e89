"""
The engine of a bus: it builds the parts once, from the bottom up, and gives each one those that it works with.

`Bus` is the documented face; this is the one door to everything behind it. `config`, `cli`, `testing` and the bus's own parts
go through it: `engine_of(bus).lifecycle`. What a part needs from a part above it is handed down as a callable.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipebus import events
from pipebus.bus.filter_stats import FilterStats
from pipebus.bus.lifecycle import Lifecycle, State
from pipebus.bus.origins import FromFile
from pipebus.bus.registry import Registry
from pipebus.bus.schedules import Schedules
from pipebus.clock import SYSTEM, Clock
from pipebus.delivery.planning import Planner
from pipebus.delivery.subscription import Subscription
from pipebus.errors import MessageTooLarge, PipelineError, UnsupportedCapability
from pipebus.foreign.objects import plain_text, shown
from pipebus.mailbox.claims import Claims
from pipebus.message.codec import Codec, JsonCodec, prepare
from pipebus.message.message import Message
from pipebus.message.subject import encoded_address
from pipebus.outcomes.dead_letters import DeadLetters
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline.compose import Node
from pipebus.pipeline.services import Services
from pipebus.publishing import sender
from pipebus.publishing.arrival import bind, binding
from pipebus.publishing.on_error import PublishRulings
from pipebus.publishing.replies import Replies
from pipebus.publishing.router import Router
from pipebus.publishing.sender import Sender
from pipebus.running.here import carry
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loops import LoopRunner
from pipebus.running.pool import Pool
from pipebus.running.starts import Starts
from pipebus.running.timers import Timers
from pipebus.transports.opening import open_transport
from pipebus.values.quantities import is_whole
from pipebus.waiting.green import refuse_green_threads
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`


class Engine:
    """
    The parts of one bus, built in the order of the imports: time and threads, outcomes, publishing, registration.

    Args:
        bus: Its face. What handlers return, schedules and requests go through its methods, as a subclass may define them.
        known: Types of handlers' parameters that the bus itself fills in, and how.
        url, require, pool, dead_letters, max_message_bytes, max_hops, drain, strict, debug, clock, name: As for `Bus`.
    """

    lifecycle: Lifecycle

    def __init__(
        self, bus: Any, known: dict[Any, Callable[[Message[Any]], Any]], url: Any, *, require: Mapping[str, Any] | None,
        pool: int | None, dead_letters: int, max_message_bytes: int | None, max_hops: int, drain: bool | None, strict: bool,
        debug: bool, clock: Clock | None, name: str,
    ) -> None:  # fmt: skip
        refuse_green_threads()
        self.bus = bus
        self.publish, self.apublish, self.subscribe = bus.publish, bus.apublish, bus.subscribe
        name = plain_text(name)
        self.name: str = name
        if require is not None and not isinstance(require, Mapping):
            raise PipelineError(f'Bus(require={shown(require)}): it is a dictionary of promises, as in {{"survives": "power"}}')
        self.require = {plain_text(what): plain_text(promise) for what, promise in (require or {}).items()}
        self.max_message_bytes = max_message_bytes
        self.max_hops = _whole(max_hops, "max_hops")
        if drain is not None and not isinstance(drain, bool):
            raise PipelineError(f"Bus(drain={drain!r}): it is True, False or None")
        if not isinstance(strict, bool):
            raise PipelineError(f"Bus(strict={shown(strict)}): it is True or False")
        self.drains, self.strict = drain, strict
        self.from_file = FromFile()
        self.telemetry: dict[str, str] | None = None  # how the bus is instrumented, as a file says it

        self.locks = Locks()
        self.clock: Clock = clock or SYSTEM
        self.codec: Codec = JsonCodec()
        self.collector: Any = None  # what `telemetry.prometheus` keeps with the bus
        url = plain_text(url)
        self.transport = open_transport(url) if isinstance(url, str) else url
        self.url: str = getattr(self.transport, "url", url)  # without secrets, if it has some
        if self.transport.locks is not None:
            self.locks.add(self.transport.locks)
        if not self.transport.local or self.transport.codec is not None:
            prepare()
        self.address: Callable[[Any], Any] = plain_text if self.transport.capabilities.objects else encoded_address
        self.check_promises()

        cap = _whole(dead_letters, "dead_letters")
        self.dead_letters: DeadLetters = (
            self.transport.dead_letters if self.transport.dead_letters is not None else DeadLetters(cap, self.locks)
        )
        self.dead_letters.cap, self.dead_letters.locks, self.dead_letters.publish_again = cap, self.locks, bus.send
        self.ledger = Ledger(name, lambda error: self.lifecycle.interrupted(error, "an observer"), self.locks)

        self.starts = Starts(self.ledger.warn)
        self.claims = Claims(self.locks, self.starts.retry)
        self.pool_is_given = pool is not None
        self.pool = Pool(
            _whole(pool, "pool") if pool is not None else min(32, (os.cpu_count() or 1) + 4),
            self.clock, name, lambda ready, workers: self.ledger.emit(events.Starved(ready, workers)),
            starts=self.starts, locks=self.locks,
        )  # fmt: skip
        self.loop_thread = LoopThread(
            name, lambda error: self.lifecycle.interrupted(error, "a task on the bus's loop"), self.locks
        )
        self.loops = LoopRunner(self.clock, self.loop_thread, self.ledger.warn, self.starts, self.locks)
        self.timers = Timers(self.clock, name, lambda error: self.ledger.failed("timer.failed", error), self.starts, self.locks)
        self.starts.later = self.timers.after
        self.services = Services(self.clock, debug, self.pool.lent, carry)

        self.router = Router(self)
        self.replies = Replies(self)
        self.lifecycle = Lifecycle(self)
        self.filter_stats = FilterStats(self)
        self.sender = Sender(
            clock=self.clock, transport=self.transport, url=self.url, address=self.address, router=self.router,
            replies=self.replies, ledger=self.ledger, pool=self.pool, loop_thread=self.loop_thread, timers=self.timers,
            locks=self.locks, check_publish=self.lifecycle.check_publish,
            started=lambda: self.lifecycle.state == "started", strict=strict, max_hops=self.max_hops,
        )  # fmt: skip
        self.rule = PublishRulings(
            clock=self.clock, locks=self.locks, ledger=self.ledger, dead_letters=self.dead_letters,
            ended_by_stop=self.lifecycle.ended_by_stop,
        ).rule  # fmt: skip

        planner = Planner(self, known)
        self.registry = Registry(
            self, name=name, locks=self.locks, transport=self.transport, lifecycle=self.lifecycle, router=self.router,
            planner=planner, timers=self.timers, listener=self.replies.listener, from_file=self.from_file,
            bind=functools.partial(bind, self),
            check_binding=lambda subscription: self.transport.check(binding(self, subscription)),
        )  # fmt: skip
        self.schedules = Schedules(
            self, locks=self.locks, lifecycle=self.lifecycle, planner=planner, sender=self.sender, pool=self.pool
        )

        # What parts below ask of parts above.
        self.delay, self.next_id = sender.delay, self.sender.composer.next_id
        self.route, self.check_address = self.sender.route, self.sender.check_address
        self.ready, self.hand_in, self.ahand_in = self.sender.ready, self.sender.hand_in, self.sender.ahand_in
        self.unsubscribe, self.aunsubscribe, self.end = (
            self.registry.unsubscribe, self.registry.aunsubscribe, self.registry.end,
        )  # fmt: skip
        self.forget_schedule = self.schedules.forget
        self.request_stop, self.went_back = self.lifecycle.request_stop, self.lifecycle.went_back
        self.interrupted, self.ended_by_stop = self.lifecycle.interrupted, self.lifecycle.ended_by_stop
        self.check_process = self.lifecycle.check_process

    def check_promises(self) -> None:
        """
        Raises:
            UnsupportedCapability: the transport promises less than `require` says.
        """
        transport = self.transport
        transport.capabilities.require(self.require, type(transport).__name__, transport.shortcoming)

    @property
    def state(self) -> State:
        return self.lifecycle.state

    @property
    def direct(self) -> bool:
        """Whether messages go from publish to mailboxes as they are, and nobody observes them."""
        transport = self.transport
        local = transport.local and transport.codec is None and not transport.capabilities.dedup_window
        return bool(local and not self.ledger.observed and self.state == "started")

    @property
    def delivery_nodes(self) -> tuple[Node, ...]:
        """The chain around every handler; the publish chain is `router.nodes`."""
        return self.registry.delivery_nodes

    def options(self) -> dict[str, Any]:
        """What the bus was made with, apart from its URL."""
        return {
            "name": self.name,
            "pool": self.pool.size if self.pool_is_given else None,
            "dead_letters": self.dead_letters.cap,
            "max_message_bytes": self.max_message_bytes,
            "max_hops": self.max_hops,
            "require": self.require,
            "drain": self.drains,
            "strict": self.strict,
            "debug": self.services.debug,
            **({} if self.telemetry is None else {"telemetry": self.telemetry}),
        }

    @property
    def subscriptions(self) -> list[Subscription]:
        """Without the bus's own for replies."""
        return [one for one in self.router.subscriptions() if not one.answers]

    def stats(self) -> dict[str, Any]:
        """`Bus.stats`."""
        self.locks.check()
        return {
            "state": self.state,
            **self.ledger.figures(self.sender.composer.made()),
            "dead_letters": len(self.dead_letters),
            "subscriptions": {s.name: s.stats() for s in self.subscriptions},
            "filters": self.filter_stats.all(),
            "schedules": [schedule.stats() for schedule in list(self.schedules)],
        }

    def encode(self, codec: Any, message: Message[Any]) -> bytes:
        """The message's bytes, unless they are too many."""
        data: bytes = codec.encode(message)
        if self.max_message_bytes is not None and len(data) > self.max_message_bytes:
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {len(data):,} bytes; "
                f"max_message_bytes is {self.max_message_bytes:,}"
            )
        return data

    # --- what a delivery asks of the transport that brought it ---------------------------------------------------------

    def holds(self, token: Any) -> bool:
        return bool(self.transport.holds(token))

    def settle_remote(self, token: Any, verdict: Any, delay: float, why: str) -> None:
        self.transport.settle(token, verdict, delay, why)
        self.claims.alarm()

    def flush_remote(self) -> None:
        with self.pool.lent():
            self.transport.flush()

    def transaction(self, token: Any) -> Any:
        if not self.transport.capabilities.transactions or (token is None and not self.transport.local):
            raise UnsupportedCapability(f"{self.url} has no transactions; use a store that has, such as sqlite:///bus.db")
        return self.transport.transaction(token)

    def figures(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.transport.figures(name)
        return found

    def listeners(self, subject: Any) -> list[Any]:
        """The subscriptions whose patterns match."""
        with free(self.router.lock):
            return self.router.listeners(self.address(subject))

    def after_fork(self) -> None:
        """In the child: nothing of an inherited bus works. Its publishes find no route, and `check_publish` raises."""
        self.router.close()


def _whole(value: Any, name: str) -> int:
    if not is_whole(value, 1):
        raise PipelineError(f"Bus({name}={shown(value)}): it is a whole number of at least 1")
    return int(value)
