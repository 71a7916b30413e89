"""
The rules of a store in a database, which every SQL engine shares: what is ready, waits, is claimed, is dead; who owns it.

    statements.py      every statement, in SQL that SQLite and PostgreSQL understand
    store.py           one connection, with what all rules need
    publishing.py      storing messages                 owners.py       who is alive, and what a dead process leaves
    subscriptions.py   who gets what                    dead.py         dead letters
    deliveries.py      taking and ending deliveries     keys.py         one message of a key at a time
    retention.py       what is kept for a time          records.py      what these hand to each other
    bound.py           a subscription served here       round.py        what its keeper writes in one transaction
    slots.py           the last slots of schedules

A delivery is a row in `ready`, `parked`, `later` or `claimed`, and each settlement moves or deletes that row. So nothing is
counted twice, and the rows say what a killed process has left undone. A row in `claimed` names its owner and how often the
message was taken before. A settlement must name the same two (the fencing token), so a process that has lost a delivery
cannot settle it.

Each rule is a function of a store and runs inside its caller's transaction. An engine adds its dialect: how a transaction is
made durable, its clock, how others are woken, which processes are alive. `sqlite/` is the first. What a second one must know:
the rules rely on one writer at a time (`seq` in the order of commits), which a server without such a lock has to provide.
"""
