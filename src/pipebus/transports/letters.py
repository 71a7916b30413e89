"""Dead letters that a store keeps for all programs that use it: what is the same for every store."""

from __future__ import annotations

import os
from typing import Any

from pipebus.outcomes.dead_letters import PUBLISH, DeadLetter, DeadLetters, Source


class SharedLetters(DeadLetters):
    """A letter of a delivery is kept together with the settlement of that delivery; one of a publish is kept at once."""

    settles = True

    def next_id(self) -> str:
        """An id that is unique among all programs, known before the letter is kept."""
        return f"d{os.urandom(5).hex()}"

    def keep(self, letter: DeadLetter, source: Source, token: Any) -> None:
        if token is not None:
            self._settle(token, letter)
        else:
            self._store(letter)

    def _settle(self, token: Any, letter: DeadLetter) -> None:
        """Settle a delivery as dead."""
        raise NotImplementedError

    def _store(self, letter: DeadLetter) -> None:
        """Keep a letter that belongs to no delivery."""
        raise NotImplementedError

    def _republished(self, letter: DeadLetter) -> bool:
        """
        Publish the message of a letter again, through the chain of this program, if it died in a publish chain. False: it died
        in a subscription.
        """
        if letter.subscription != PUBLISH:
            return False
        self.publish_again(letter.message)
        return True
