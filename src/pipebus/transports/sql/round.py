"""What the keeper writes in one transaction: its lease, its duties, and claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pipebus.transports.sql import deliveries, owners, subscriptions
from pipebus.transports.sql.bound import Bindings, Bound
from pipebus.transports.sql.records import Claim, Life
from pipebus.transports.sql.store import Store


class Serving(Protocol):
    """
    What a round needs of its keeper, and changes in it.

    Args:
        owner: Its number as an owner.
        renewed: When its lease was renewed, in the store's time.
    """

    owner: int
    renewed: float
    life: Life
    bindings: Bindings

    @property
    def generation(self) -> int: ...
    @property
    def lease(self) -> float: ...
    def until(self) -> float: ...
    def lost_lease(self, owner: int) -> None: ...
    def move(self, bound: Bound, sub: int) -> None: ...


class Round:
    """
    A job for the writer. It may be run again if the transaction failed. So `undo` takes back what it changes outside the file,
    or `carry_out` does that after the commit.

    Args:
        tasks: Duties; see `Keeper._duties`.
        wanted: Subscriptions, and how many deliveries to claim for each.
        looks: Check that all subscriptions are still in the file.
    """

    def __init__(
        self, keeper: Serving, tasks: list[Callable[[Store], object]], wanted: list[tuple[Bound, int]], looks: bool
    ) -> None:
        self.keeper = keeper
        self.tasks = tasks
        self.wanted = wanted
        self._looks = looks
        self._generation = keeper.generation  # the tasks may contain numbers of this generation
        self.filled = False  # a subscription was given older messages, and there are more
        self.claimed: list[tuple[Bound, list[Claim], list[bytes]]] = []
        self._adopted: list[tuple[Claim, int, int]] = []  # with the owner and `takings` that they had
        self._moved: list[tuple[Bound, int]] = []  # with the new number
        self._owner = 0
        self._until = 0.0

    def __call__(self, store: Store) -> None:
        self.undo()
        keeper = self.keeper
        lease = keeper.lease
        if store.generation != self._generation:
            self._owner, self._until = keeper.owner, keeper.renewed + lease
            return
        owner, until = keeper.owner, keeper.until()
        due = keeper.renewed + lease / 3 <= store.now()
        if not (owners.renew(store, owner, until) if due else owners.exists(store, owner)):
            # This process slept for longer than its lease, and others took it for dead.
            owner = owners.enter(store, keeper.life, until)
            held = [claim for bound in keeper.bindings for claim in list(bound.out)]
            held = [claim for claim in held if claim.generation == store.generation]
            self._looks = True  # subscriptions of this process alone are gone with the lease
            for claim, takings in owners.adopt(store, held, owner):
                # Now, under the lock for writers: a settlement that follows this transaction must find its new fence.
                self._adopted.append((claim, claim.owner, claim.takings))
                claim.owner, claim.takings = owner, takings
            due = True
        self._owner, self._until = owner, until if due else keeper.renewed + lease
        if self._looks:
            self._look(store, owner)
        for task in self.tasks:
            task(store)
        self._claim(store, owner)

    def _look(self, store: Store, owner: int) -> None:
        """Make subscriptions again that are gone: with a lost lease, or because somebody has removed them."""
        for bound in self.keeper.bindings:
            if subscriptions.number(store, bound.name) != bound.sub:
                again = (bound.sub, bound.name, bound.patterns, bound.owner(owner), bound.seen, set(bound.recent))
                self._moved.append((bound, subscriptions.subscribe_again(store, *again)))
            else:
                # What waits for a subscription that is not durable is lost with its row, and is given to it again.
                bound.seen = subscriptions.position(store, bound.sub, claimed=not bound.binding.durable)
                bound.recent = {seq for seq in bound.recent if seq > bound.seen}

    def _claim(self, store: Store, owner: int) -> None:
        careful = any(bound.suspects for bound in self.keeper.bindings)
        for bound, count in self.wanted:
            way = careful if bound.binding.handled else None
            found = deliveries.claim(store, bound.sub, owner, count, way)
            if not found:
                self.filled = subscriptions.fill(store, bound.sub) or self.filled
                found = deliveries.claim(store, bound.sub, owner, count, way)
            claims = [Claim(bound, store.generation, bound.sub, owner, one) for one in found]
            self.claimed.append((bound, claims, [one.data for one in found]))
            bound.out.update(dict.fromkeys(claims))  # before the commit: a drain must see them here or in the file
            bound.recent.update(one.seq for one in found)
            careful = careful or bound.suspects

    def undo(self) -> None:
        for bound, claims, _ in self.claimed:
            for claim in claims:
                bound.out.pop(claim, None)
        for claim, owner, takings in self._adopted:
            claim.owner, claim.takings = owner, takings
        self.claimed.clear()
        self._adopted.clear()
        self._moved.clear()

    def carry_out(self) -> None:
        """After the commit: change what is known of it in this process."""
        keeper = self.keeper
        if self._owner != keeper.owner:
            keeper.lost_lease(self._owner)
        for bound, sub in self._moved:
            keeper.move(bound, sub)
        keeper.renewed = self._until - keeper.lease
