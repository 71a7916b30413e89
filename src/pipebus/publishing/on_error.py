"""What an error in the publish chain becomes under a pipeline's `on_error`: a drop, or a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipebus import events
from pipebus.clock import Clock
from pipebus.errors import Rejected
from pipebus.foreign.objects import class_name, is_a, said
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.outcomes.dead_letters import PUBLISH, DeadLetters, Source
from pipebus.outcomes.ledger import Ledger, refusal
from pipebus.pipeline import blame, compose
from pipebus.waiting.locks import Locks


class PublishRulings:
    """
    Args:
        ended_by_stop: Whether the stop of this bus has caused an error; such an error is raised.
    """

    def __init__(
        self, *, clock: Clock, locks: Locks, ledger: Ledger, dead_letters: DeadLetters,
        ended_by_stop: Callable[[BaseException], bool],
    ) -> None:  # fmt: skip
        self.clock = clock
        self.locks = locks
        self.ledger = ledger
        self.dead_letters = dead_letters
        self.ended_by_stop = ended_by_stop

    def rule(self, on_error: compose.OnError) -> compose.Ruling:
        """The ruling for one pipeline. ("dead_letter" exists on the publish side only.)"""

        def rule(message: Message[Any], error: BaseException, step: blame.StepId) -> Dropped:
            if self.ended_by_stop(error):
                raise error
            if on_error == "dead_letter":
                self._add_letter(message, error, step.name)
            return ruled(on_error, error, step)

        return rule

    def _add_letter(self, message: Message[Any], error: BaseException, by: str) -> None:
        self.locks.check()
        now = self.clock.now()
        letter = self.dead_letters.add(
            message, error, Source(self.dead_letters.publish_again, self._forget), subscription=PUBLISH, by=by, attempts=1,
            first_time=now, time=now,
        )  # fmt: skip
        self.ledger.failed("message.died", error, by=by, subject=said(message.subject), message=message.id, letter=letter.id)
        if self.ledger.observed:
            self.ledger.emit(events.Died(message, PUBLISH, letter.id, letter.error, error))

    def _forget(self, message: Message[Any], reason: str) -> None:
        self.ledger.dropped(message, Dropped(reason, PUBLISH))


def ruled(on_error: compose.OnError, error: BaseException, step: blame.StepId) -> Dropped:
    """The outcome for the publisher. Reasons are counted by their text, and that of an error may differ for each message."""
    reason = refusal(error)[1] if is_a(error, Rejected) else class_name(error)
    return Dropped(f"{on_error}: {reason}", step.name)
