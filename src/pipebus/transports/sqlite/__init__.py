"""
SQLite: the messages of one machine in one file, for one process or several. `transport.py` is where to start.

    options.py    what its URL says                 boot.py       a clock that no clock change moves, and who is alive
    schema.py     the tables, opening, migration    files.py      one writer at a time, in all processes
    store.py      what is read and written          writer.py     many small jobs in one transaction
    letters.py    dead letters                      claims.py     how many deliveries to have out
    transport.py  the seam to the bus               transaction.py  a handler's own transaction
"""

from pipebus.transports.sqlite.transport import SqliteTransport

__all__ = ["SqliteTransport"]
