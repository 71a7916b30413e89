"""
SQLite: the messages of one machine in one file, for one process or several. `transport.py` is where to start.

    transport.py    the seam to the bus                 store.py    every statement
    keeper.py       who brings messages in              schema.py   the tables, opening, migration
    claims.py       how many deliveries to have out     options.py  what the URL says
    writer.py       many small jobs in one transaction  boot.py     a clock that no clock change moves, and who is alive
    transaction.py  a handler's own transaction         files.py    one writer at a time, in all processes
    letters.py      dead letters                        health.py   what `pipebus doctor` looks at
    file.py         one file, open                      tail.py     following its messages
    place.py        what its path means by now
"""

from pipebus.transports.sqlite.transport import SqliteTransport

__all__ = ["SqliteTransport"]
