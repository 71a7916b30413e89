"""
Filters: the three shapes, a detour, a branch, around publishing and around a handler.

    python examples/02_filters.py

A till sends what it sells. Each sale passes the publish chain once, and the delivery chain on its way to each handler.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace

from pipebus import Bus, Dropped, Message, Outcome, Rejected, Transform, around, branch, transform, when
from pipebus.filters import Validate


@dataclass(frozen=True)
class Sale:
    item: str
    price: float


CallNext = Callable[[Message], Outcome]
book: list[str] = []
bus = Bus()


# --- the three shapes --------------------------------------------------------------------------------------------------


@bus.use  # the first filter is the outermost
def journal(message: Message, call_next: CallNext) -> Outcome:
    """Plain: runs before and after everything further in, and sees what became of the message."""
    try:
        outcome = call_next(message)
    except Rejected as error:
        print(f"{message.subject:<13} rejected by {error.by}: {error.reasons[0]}")
        raise
    print(f"{message.subject:<13} {outcome}")
    return outcome


@dataclass(eq=False)
class Discount(Transform):
    """Transform: looks once, on the way in, and returns a message. Its fields are its settings."""

    percent: float

    def transform(self, message: Message) -> Message:
        sale: Sale = message.body
        return message.with_body(replace(sale, price=sale.price * (1 - self.percent / 100)))


@transform
def not_for_free(message: Message) -> Message | Dropped:
    """A Transform may also drop. @transform makes one of a function."""
    return message if message.body.price > 0 else Dropped("nothing to pay")


@around
def twice(message: Message) -> Generator[Message, Outcome, Outcome]:
    """Around: `yield` runs the rest and gives its outcome. To yield again is to try again."""
    try:
        return (yield message)
    except ConnectionError:
        book.append("  (no answer, so once more)")
        return (yield message)


def stamped(message: Message, call_next: CallNext) -> Outcome:
    """Plain again, and used where it is named."""
    return call_next(message.with_headers(signed="manager"))


# --- the chains --------------------------------------------------------------------------------------------------------


def expensive(message: Message) -> bool:
    return bool(message.body.price >= 100)


bus.use(branch("refunds.*", stamped))  # a separate way to the mailboxes: the filters below are skipped
bus.use(Validate({"sales.*": Sale}))  # a dict that came from outside becomes a Sale, or is rejected
bus.use(when(expensive, Discount(percent=10)))  # a detour, for some messages; then on with what follows
bus.use(not_for_free)
bus.use(twice, at="delivery")  # around every handler


failures = ["no answer"]  # the line to the book is dead, once


@bus.on(["sales.*", "refunds.*"], name="book")
def write(message: Message) -> None:
    if failures:
        raise ConnectionError(failures.pop())
    signed = f", signed by the {message.headers['signed']}" if message.headers else ""
    book.append(f"  {message.subject} {message.body}{signed}")


def main() -> None:
    with bus:
        bus.publish("sales.bread", {"item": "bread", "price": "3.5"})
        bus.publish("sales.clock", {"item": "clock", "price": 120})
        bus.publish("sales.bag", {"item": "bag", "price": 0})
        bus.publish("refunds.cup", "a cup that leaks")
        with suppress(Rejected):
            bus.publish("sales.pear", {"item": "pear", "price": "cheap"})

    print("\nthe book", *book, sep="\n")
    print("\nthe road of a message on")
    print(bus.explain("sales.clock"))


if __name__ == "__main__":
    main()
