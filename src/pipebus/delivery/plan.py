"""What subscriptions of equal settings share, and what they ask of their bus."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from pipebus.clock import Clock
from pipebus.delivery.binding import Bound
from pipebus.mailbox.rare import Rules
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import DeadLetters
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import compose
from pipebus.pipeline.compose import Node
from pipebus.pipeline.services import Services
from pipebus.running.pool import Pool


class Answers(Protocol):
    """Where what a handler returned goes to."""

    def answer(self, to: Any, request: Message[Any], value: Any) -> None: ...
    async def aanswer(self, to: Any, request: Message[Any], value: Any) -> None: ...
    def answer_at_once(self, to: Any, request: Message[Any], value: Any) -> bool: ...
    def fail(self, to: Any, request: Message[Any], error: BaseException) -> bool: ...
    def drop(self, to: Any, reason: str, by: str) -> None: ...
    def asker(self, address: Any) -> Any: ...


class Hub(Protocol):
    """What a subscription asks of its bus; handed down."""

    bus: Any  # what handlers and actors know it by
    clock: Clock
    dead_letters: DeadLetters
    ledger: Ledger
    services: Services

    @property
    def replies(self) -> Answers: ...
    @property
    def state(self) -> str: ...
    def request_stop(self, reason: str) -> None: ...
    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None: ...
    def ended_by_stop(self, error: BaseException) -> bool: ...
    def went_back(self, name: str, message: Message[Any]) -> None: ...
    def check_process(self) -> None: ...
    def holds(self, token: Any) -> bool: ...
    def settle_remote(self, token: Any, verdict: str, delay: float, why: str) -> None: ...
    def flush_remote(self) -> None: ...
    def transaction(self, token: Any) -> AbstractContextManager[Any]: ...
    def figures(self, name: str) -> dict[str, Any] | None: ...
    def unsubscribe(self, subscription: Any, timeout: float | None) -> None: ...
    async def aunsubscribe(self, subscription: Any, timeout: float | None) -> None: ...
    def end(self, subscription: Any, reason: str) -> None: ...
    def rule(self, on_error: compose.OnError) -> compose.Ruling: ...


class Plan(Rules):
    """What subscriptions of equal settings share, so that a million of them stay small."""

    __slots__ = (
        "attempts", "awaits", "bound", "deliver", "hub", "nodes", "plain", "pool", "quick", "read", "reads", "run_on", "to",
    )  # fmt: skip

    def __init__(
        self, hub: Hub, bound: Bound | None, nodes: tuple[Node, ...], *, to: Any, run_on: str, attempts: int, deliver: str,
        reads: Any, read: compose.Next, **rules: Any,
    ) -> None:  # fmt: skip
        super().__init__(**rules)
        self.hub = hub
        self.bound = bound  # None: pull
        self.reads = reads  # the type of the bodies that a reader gets; None: any
        self.read = read  # what a reader gets of a message, as the outcome of its chain
        self.nodes = nodes  # its own filters, without the bus's
        self.to = to
        self.run_on = run_on
        self.attempts = attempts
        self.deliver = deliver
        self.pool: Pool | None = None  # threads of its own
        self.awaits = False  # its chain is async, though its handler is a plain `def`: on a loop, where all filters allow it
        self.quick = bound is not None and not bound.wants_delivery
        self.plain = bound is not None and bound.plain
