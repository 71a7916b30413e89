"""
NATS: messages on a server, for programs on several machines; with JetStream, which keeps them, or without.
`transport.py` is where to start.

    options.py     what its URL says                  link.py        the connection, on a loop thread of its own
    subjects.py    our subjects as the server's       publisher.py   many publishes on their way at once
    wire.py        messages as bytes and headers      streams.py     what has to exist on the server
    puller.py      a durable subscription             listener.py    one that keeps nothing
    letters.py     dead letters                       directory.py   which subscriptions a message reaches
    transport.py   the seam to the bus                health.py      what `pipebus doctor` looks at
    creds.py       a file of credentials              company.py     who else serves a subscription
    claim.py       one delivery                       client.py      nats-py's client, made sturdy
    notes.py       how often a message was taken
"""

from pipebus.errors import UnsupportedCapability

try:
    from pipebus.transports.nats.transport import NatsTransport
except ModuleNotFoundError as error:
    if error.name != "nats":
        raise
    raise UnsupportedCapability('nats:// needs a package that is not installed: pip install "pipebus[nats]"') from None

__all__ = ["NatsTransport"]
