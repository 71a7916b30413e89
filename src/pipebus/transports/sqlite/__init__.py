"""
SQLite: the messages of one machine in one file, for one process or several. Begin with `transport.py`.

    what the bus calls      transport.py, options.py (the URL), transaction.py (a handler's own), letters.py (dead letters)
    who works               keeper.py (brings messages in), round.py (what it writes), bound.py (a subscription served here),
                            writer.py (many small jobs in one transaction), commits.py (that transaction)
    what is stored          schema.py (the tables), store.py (begin here for the statements), records.py
    the file                file.py (open), connections.py (opening, migration), place.py (what its path means by now),
                            descriptors.py, salvage.py, lock.py (one writer at a time), boot.py (the clock, and who is alive)
    looking from outside    glance.py, tail.py (following messages), health.py (`pipebus doctor`), remedies.py
"""

from pipebus.transports.sqlite.transport import SqliteTransport

__all__ = ["SqliteTransport"]
