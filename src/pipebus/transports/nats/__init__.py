"""
NATS: messages on a server, for programs on several machines; with JetStream, which keeps them, or without. Begin with
`transport.py`.

    what the bus calls       transport.py, options.py (the URL), letters.py (dead letters)
    the connection           link.py (on a loop of its own), client.py (nats-py's, made robust), asking.py
    publishing               sender.py (for the user's threads and loops), publisher.py (on the link's loop), wire.py (the form
                             of messages), subjects.py, directory.py (which subscriptions a message reaches)
    subscriptions            served.py (all that are served here), listener.py (one that keeps nothing)
    durable subscriptions    puller.py and its parts consumer.py, requests.py, orphans.py, feed.py, verdicts.py; claim.py (one
                             delivery), notes.py (attempts)
    on the server            streams.py (what must exist), health.py (`pipebus doctor`)
"""

from pipebus.errors import UnsupportedCapability
from pipebus.foreign.packages import install

try:
    from pipebus.transports.nats.transport import NatsTransport
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "nats":
        raise
    raise UnsupportedCapability(f"nats:// needs the package nats-py: {install('nats')}") from None

__all__ = ["NatsTransport"]
