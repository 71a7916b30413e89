"""
The protocol of a mailbox with one worker, in every order of its steps: see `pipebus.mailbox.mailbox` for what it promises.

The steps are those of the real functions (`every_order`). Only the worker's loop is written here once more, in ten lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from every_order import Lock, Steps, Thread, World, Wrong, explore, stepwise

from pipebus import BusClosed, MailboxFull
from pipebus.mailbox import control, offering
from pipebus.mailbox.claims import Claims
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import NOBODY, ONE
from pipebus.mailbox.rare import Rules
from pipebus.waiting.locks import Locks

METHODS = (
    Mailbox.put, Mailbox.is_in, Mailbox.enter, Mailbox.complete, Mailbox.begin, Mailbox.attend, Mailbox.rest, Mailbox.leave,
    Mailbox.look_again, Mailbox.apply, Mailbox.clear,
)  # fmt: skip
FUNCTIONS = (
    offering.offer, offering.admit, offering._queue, offering.let_in, offering.line_up_again, offering.admit_waiters,
    offering.line_up, offering.between, control.pause, control.resume, control.close, control._rests, control.reopen,
    control.go_on, control.when_idle, control.when_ended, control.step_in,
)  # fmt: skip


class Letter:
    """A message."""

    attempt = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def state_key(self, key: Any) -> str:
        return self.name


class Still:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 0.0


def rare_key(rare: Any, key: Any) -> Any:
    return tuple((name, key(getattr(rare, name))) for name in type(rare).__slots__ if name not in ("later", "dropped", "gates"))


class Drama(World):
    """
    One mailbox, its publishers and workers, and the threads that change it.

    Args:
        mail: For each publisher, what it publishes.
        room: Up to so many messages a put takes no lock. size: The bound.
        over: By how many messages the bound may be exceeded; see the text of `mailbox`.
        failures: So many starts of the first worker's thread fail.
    """

    def __init__(
        self, *, mail: tuple[tuple[str, ...], ...], workers: int = 2, room: int = 2, size: int = 4, overflow: Any = "block",
        over: int = 0, controls: tuple[str, ...] = (), slices: bool = False, failures: int = 0,
        breaks: dict[str, tuple[str, str]] | None = None, **interrupted: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        code = _code(breaks)
        self.made = code
        self.size, self.over, self.slices = size, over, slices
        self.ready: deque[Any] = deque()
        self.alive, self.failures, self.stopped = not failures, failures, False
        self.hands: dict[str, str] = {}
        self.began: list[str] = []
        self.handled: list[str] = []
        self.dropped: list[str] = []
        self.results: dict[str, list[str]] = {}
        self.final = False
        self.gate_open = False
        self.letters = {name: Letter(name) for names in mail for name in names}
        claims = Claims.__new__(Claims)
        claims.lock, claims.live, claims.working, claims.held, claims.gates = Lock(), {}, {}, 0, []
        claims.locks, claims.waits, claims.look = Locks(), {}, lambda: None
        self.claims = claims
        plan = Rules(
            claims, Still(), size=size, overflow=overflow, enlist=self.ready.append, call=self._call,
            later=lambda seconds, call: None, blocking=nullcontext, mine=lambda mailbox: False,
        )  # fmt: skip
        plan.room = room
        self.mailbox = mailbox = code["Stepped"](plan)
        mailbox.discarded = lambda item, reason, by: self.dropped.append(item.name)
        mailbox.overflowed = lambda item, policy: None
        for number, names in enumerate(mail):
            publisher = Thread(f"P{number}", self._publisher(f"P{number}", names), interrupted.get("publishers", False))
            self.threads.append(publisher)
        self.threads += [Thread(f"W{number}", self._worker(f"W{number}")) for number in range(workers)]
        for what in controls:
            steps = getattr(self, f"_{what}")()
            self.threads.append(Thread(what, steps, interrupted.get("controls_interrupted", False)))

    # --- the threads -----------------------------------------------------------------------------------------------------

    def _call(self, mailbox: Any) -> BaseException | None:
        if not self.alive and self.failures:
            self.failures -= 1
            return RuntimeError("can't start new thread")
        self.alive = True
        return None

    def _publisher(self, me: str, names: tuple[str, ...]) -> Steps:
        for name in names:
            yield
            result = "?"
            try:
                receipt = yield from self.mailbox.put(self.letters[name], False)
                result = "in" if receipt is ONE else "nobody" if receipt is NOBODY else "full"
                if receipt is None:
                    place = yield from self.made["line_up"](self.mailbox, self.letters[name], lambda: None)
                    result = "in"
                    if not hasattr(place, "mailboxes"):
                        yield lambda place=place: place.accepted is not None
                        result = "in" if place.accepted else "refused"
            except MailboxFull:
                result = "refused"
            except BusClosed:
                result = "refused"
            except RuntimeError:
                result = "in"  # it could not be started yet, and the publisher gets the error, but the message is in
            except KeyboardInterrupt:
                result = "interrupted"
            self.results.setdefault(name, []).append(result)

    def _worker(self, me: str) -> Steps:
        mailbox = self.mailbox
        while True:
            yield lambda: self.ready and self.alive and not self.stopped
            self.ready.popleft()
            box = yield from mailbox.begin(me)
            while box is not None:
                yield
                if mailbox.attention and not (yield from mailbox.attend(box)):
                    break
                yield
                try:
                    item = box.popleft()
                except IndexError:
                    if (yield from mailbox.rest(box)):
                        break
                    continue
                self._begins(me, item.name)
                mailbox.taken += 1
                yield
                del self.hands[me]
                self.handled.append(item.name)
                mailbox.acknowledged += 1
                if self.slices:
                    yield
                    yield from mailbox.leave()
                    yield
                    self.ready.append(mailbox)
                    break

    def _begins(self, me: str, name: str) -> None:
        if self.hands:
            raise Wrong(f"{me} begins {name} while {self.hands} is in hand")
        if self.final:
            raise Wrong(f"{name} begins after unsubscribe has returned")
        times = self.began.count(name)
        if times >= sum(names.count(name) for names in self._mail()):
            raise Wrong(f"{name} begins once more")
        before = [one for one in self.began if one[0] == name[0] and one > name]
        if before:
            raise Wrong(f"{name} begins after {before[-1]}")
        self.hands[me] = name
        self.began.append(name)

    def _mail(self) -> list[tuple[str, ...]]:
        return self.mail

    def _pause_and_resume(self) -> Steps:
        yield from self.made["pause"](self.mailbox)
        yield
        yield from self.made["resume"](self.mailbox)

    def _unsubscribe(self) -> Steps:
        gone = yield from self.made["close"](self.mailbox, "unsubscribed", False)
        self.dropped += [item.name for item in gone]
        yield
        idle = yield from self.made["when_ended"](self.mailbox, self._open)
        if not idle:
            yield lambda: self.gate_open
        self.final = True

    def _open(self) -> None:
        self.gate_open = True

    def _stop_and_start(self) -> Steps:
        yield from self.made["close"](self.mailbox, "stopped", True)
        self.stopped = True
        yield lambda: not self.hands  # the pool waits for the handler that runs
        while self.ready:
            yield
            if self.ready:
                self.ready.popleft()
                box = yield from self.mailbox.begin("sweep")
                if box is not None and (not self.mailbox.attention or (yield from self.mailbox.attend(box))):
                    yield from self.mailbox.leave()
                    yield
                    self.ready.append(self.mailbox)
                    break
        yield
        again = yield from self.made["reopen"](self.mailbox)
        self.stopped = False
        if again:
            yield
            yield from self.made["go_on"](self.mailbox)

    def _other(self) -> Steps:
        """Somebody's next publish elsewhere, a wait for quiet, the timer: it tries once more to start a thread."""
        yield lambda: not self.alive and not self.failures
        self.alive = True

    # --- what is promised ----------------------------------------------------------------------------------------------------

    def shared_key(self, key: Any) -> Any:
        mailbox = self.mailbox
        rare = mailbox.rare
        return (
            key(mailbox.box), mailbox.room, mailbox.attention, rare_key(rare, key) if rare is not None else None,
            key(self.claims.live.get(mailbox)), key(self.claims.working.get(mailbox)), self.claims.lock.owner,
            len(self.ready), self.alive, self.failures, self.stopped, tuple(self.hands.items()), tuple(self.began),
            tuple(sorted(self.handled)), tuple(sorted(self.dropped)), tuple(sorted((n, *r) for n, r in self.results.items())),
            self.final, self.gate_open,
        )  # fmt: skip

    def check(self) -> None:
        mailbox, claims = self.mailbox, self.claims
        if mailbox.box.__class__ is deque and mailbox not in claims.live:
            raise Wrong("a box without an owner")
        if not claims.live and self.hands:
            raise Wrong("a handler runs, and the bus looks quiet")
        in_box = len(mailbox.box) if mailbox.box.__class__ is deque else 0
        if self.final and in_box:
            raise Wrong("messages are pending after unsubscribe has returned")
        if in_box + len(self.hands) > self.size + self.over:
            raise Wrong(f"{in_box} waiting and {len(self.hands)} in hand, with room for {self.size}")

    def at_the_end(self) -> None:
        mailbox, claims = self.mailbox, self.claims
        stuck = [
            thread.name for thread in self.threads if not thread.ended and thread.name[0] != "W" and thread.name != "_other"
        ]
        stuck = [name for name in stuck if name != "other"]
        if stuck:
            raise Wrong(f"{stuck} cannot go on")
        failed = [thread.error for thread in self.threads if thread.error and not isinstance(thread.error, KeyboardInterrupt)]
        if failed:
            raise Wrong(f"raised {failed}")
        if claims.lock.owner is not None or claims.live or claims.working or self.ready:
            raise Wrong(
                f"left: lock {claims.lock.owner}, live {len(claims.live)}, working {claims.working}, {len(self.ready)} ready"
            )
        rare = mailbox.rare
        aside = [item.name for item in rare.left or ()] if rare is not None else []
        interrupted = any(isinstance(one.error, KeyboardInterrupt) for one in self.threads)
        if aside and not rare.shut and not (interrupted and mailbox.attention):  # the next call of any kind sees to it
            raise Wrong(f"{aside} set aside in a mailbox that is open")
        for name, results in self.results.items():
            ends = self.handled.count(name) + self.dropped.count(name) + aside.count(name)
            least, most = results.count("in"), results.count("in") + results.count("interrupted")
            if not least <= ends <= most:
                raise Wrong(f"{name} was {results}, and came to {ends} ends")


_compiled: dict[Any, dict[str, Any]] = {}


def _code(breaks: dict[str, tuple[str, str]] | None) -> dict[str, Any]:
    key = tuple(breaks.items()) if breaks else None
    if key not in _compiled:
        made = stepwise([*METHODS, *FUNCTIONS], breaks)

        def between(mailbox: Any, tries: int, own: bool = False) -> Steps:
            """A thread that waits for an owner between two steps looks again at any time."""
            yield
            return 0

        made["between"] = between
        for one in list(made.values()):
            one.__globals__.update({name: other for name, other in made.items() if name in one.__globals__})
        made["Stepped"] = type("Stepped", (Mailbox,), {one.__name__: made[one.__name__] for one in METHODS} | {"name": "s"})
        _compiled[key] = made
    return _compiled[key]


def drama(**options: Any) -> Callable[[], Drama]:
    def make() -> Drama:
        made = Drama.__new__(Drama)
        made.mail = options["mail"]
        made.__init__(**options)  # type: ignore[misc]
        return made

    return make


TWO, ONE_EACH = (("a1", "a2"), ("b1",)), (("a1",), ("b1",))
SMALL: dict[str, Any] = {"size": 1, "room": 0, "workers": 1}

DRAMAS: dict[str, tuple[dict[str, Any], int]] = {
    "two publishers": ({"mail": ONE_EACH}, 0),
    "two publishers, one worker": ({"mail": TWO, "workers": 1}, 0),
    "the same message twice": ({"mail": (("a1",), ("a1",))}, 0),
    "slices": ({"mail": ONE_EACH, "slices": True}, 0),
    "pause and resume": ({"mail": (("a1",),), "controls": ("pause_and_resume",), "workers": 1}, 0),
    "unsubscribe": ({"mail": (("a1",),), "controls": ("unsubscribe",), "workers": 1}, 0),
    "stop and start": ({"mail": (("a1",),), "controls": ("stop_and_start",), "workers": 1}, 0),
    "Ctrl-C in a put": ({"mail": ONE_EACH, "publishers": True, "workers": 1}, 1),
    "Ctrl-C in a change": (
        {"mail": (("a1",),), "controls": ("pause_and_resume",), "controls_interrupted": True, "workers": 1},
        1,
    ),
    "a thread that cannot be started": ({"mail": ONE_EACH, "failures": 1, "controls": ("other",)}, 0),
    "block": ({"mail": ONE_EACH, **SMALL}, 0),
    "reject": ({"mail": ONE_EACH, "overflow": "reject", **SMALL}, 0),
    "drop the oldest": ({"mail": ONE_EACH, "overflow": "drop_oldest", **SMALL}, 0),
}


LARGE: dict[str, tuple[dict[str, Any], int]] = {"reject, more": ({"mail": TWO, "overflow": "reject", **SMALL}, 0)}
"""Dramas of which not every order is tried: that would take minutes, but orders that break a promise are found soon."""

QUICK = ("pause and resume",)


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.thorough) for one in DRAMAS])
def test_every_order_keeps_the_promises(name: str) -> None:
    options, interrupts = DRAMAS[name]
    found = explore(drama(**options), interrupts=interrupts)
    assert found.error is None, "\n".join([found.error or "", *found.order])
    assert found.finished


BREAKS: dict[str, tuple[str, str, str, str]] = {
    "a put does not look again after its append": (
        "two publishers", "put", "if self.box is box or self.is_in(message, box):", "if True:",
    ),
    "a put that comes too late leaves its message": (
        "two publishers", "is_in", "return not _taken_out(item, box)", "return True",
    ),
    "a worker that rests does not look again": ("two publishers", "rest", "if box:", "if False:"),
    "a worker that leaves does not look for a new claim": (
        "two publishers", "rest", "if self.attention or self.box is not None:", "if self.attention:",
    ),
    "a worker leaves before it gives its claim back": (
        "Ctrl-C in a put", "rest",
        "del claims.live[self]\n    del claims.working[self]\n    if self.attention or self.box is not None:",
        "del claims.working[self]\n    del claims.live[self]\n    if self.attention:",
    ),
    "an entry too many lets a second worker in": (
        "Ctrl-C in a put", "begin", "if working.setdefault(self, worker) is not worker:",
        "if working.setdefault(self, worker) is None:",
    ),
    "the token of a claim is the message": (
        "the same message twice", "put", "claimed = plan.claims.live.setdefault(self, fresh) is fresh",
        "claimed = plan.claims.live.setdefault(self, message) is message",
    ),
    "an interrupted claim is not completed": (
        "Ctrl-C in a put", "complete", "while claims.live.get(self) is fresh:", "while False:",
    ),
    "a noted change is not looked for after the claim": ("unsubscribe", "look_again", "elif self.attention:", "elif False:"),
    "a put begins a turn after a change": ("unsubscribe", "put", "if claimed and self.attention:", "if False:"),
    "a worker whose turn is over stays entered": ("slices", "leave", "del self.plan.claims.working[self]", "pass"),
    "a full mailbox's bound is checked for an earlier box": ("reject, more", "enter", "if box is not seen:", "if False:"),
    "a publisher lines up and does not count again": (
        "block", "line_up", "if count is not None and count >= mailbox.plan.size:\n                    return waiter",
        "if True:\n                    return waiter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.thorough
def test_each_line_of_the_protocol_is_needed(name: str) -> None:
    """With one line broken, some order of the steps breaks a promise."""
    drama_name, function, old, new = BREAKS[name]
    options, interrupts = (DRAMAS | LARGE)[drama_name]
    found = explore(drama(**options, breaks={function: (old, new)}), interrupts=interrupts)
    assert found.error is not None
