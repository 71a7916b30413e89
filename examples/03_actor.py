r"""
An actor: an object with a mailbox, here with a thread of its own too. Each line that you type is mail for it.

    python examples/03_actor.py                             # Ctrl-D or Ctrl-C ends it
    printf 'hello\nworld\n' | python examples/03_actor.py

The main thread reads and publishes. A filter sees each message on its way. The actor's thread writes the log.
"""

import logging
import sys
from contextlib import suppress

from pipebus import Actor, Bus, Dropped, Message, transform

logging.basicConfig(format="  %(threadName)-14s  %(message)s", level=logging.INFO, stream=sys.stdout)
log = logging.getLogger("example")
bus = Bus()


class Scribe(Actor):
    """Is given one message at a time, so what it remembers needs no lock."""

    lines = 0

    def on_message(self, message: Message[str]) -> None:
        self.lines += 1
        log.info("line %d: %s", self.lines, message.body)


scribe = bus.spawn(Scribe("scribe"), run="thread")


@bus.use
@transform
def tidy(message: Message[str]) -> Message[str] | Dropped:
    """A filter. Like every publish filter it runs in the publisher's thread. Blank text goes no further."""
    text = message.body.strip()
    return message.with_body(text) if text else Dropped("nothing in it")


def main() -> None:
    with bus, suppress(EOFError, KeyboardInterrupt):
        while True:
            line = input("> ")
            if not sys.stdin.isatty():
                print(line)  # a terminal shows what is typed, a pipe does not
            outcome = bus.publish(scribe, line)  # addressed to the object itself
            if not outcome:
                log.info("%s dropped it: %s", outcome.by, outcome.reason)
            bus.drain()  # so that the log has its line before the next prompt
    print(f"\n{scribe.lines} in the log")


if __name__ == "__main__":
    main()
