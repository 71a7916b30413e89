"""
The driver's connection behind SQLAlchemy's connections and sessions.

Their classes are recognised by name, so nothing of SQLAlchemy is imported; a program that has such an object has imported it.
"""

from __future__ import annotations

from typing import Any, Final

CONNECTION: Final = "sqlalchemy.engine.base.Connection"
SESSIONS: Final = {"sqlalchemy.orm.session.Session", "sqlalchemy.orm.scoping.scoped_session"}
ASYNC_CONNECTION: Final = "sqlalchemy.ext.asyncio.engine.AsyncConnection"
ASYNC_SESSIONS: Final = {"sqlalchemy.ext.asyncio.session.AsyncSession", "sqlalchemy.ext.asyncio.scoping.async_scoped_session"}


def classes_of(thing: object) -> set[str]:
    """Module and name of the object's class and of the classes that it derives from."""
    return {f"{one.__module__}.{one.__name__}" for one in type(thing).__mro__}


def is_async(thing: object) -> bool:
    """It is one of SQLAlchemy's that has to be awaited."""
    return not classes_of(thing).isdisjoint({ASYNC_CONNECTION, *ASYNC_SESSIONS})


def connection_of(thing: Any) -> Any:
    """
    The driver's connection, in the transaction of a SQLAlchemy `Connection` or `Session`, which begins one if it has none, as
    for any statement. Anything else is returned as it is.
    """
    kinds = classes_of(thing)
    if kinds & SESSIONS:
        thing = thing.connection()
    elif CONNECTION in kinds:
        if not thing.in_transaction():
            thing.begin()
    else:
        return thing
    return thing.connection.driver_connection


async def aconnection_of(thing: Any) -> Any:
    """`connection_of`, also for an `AsyncConnection` or `AsyncSession`."""
    kinds = classes_of(thing)
    if kinds & ASYNC_SESSIONS:
        thing = await thing.connection()
    elif ASYNC_CONNECTION in kinds:
        if not thing.in_transaction():
            await thing.begin()
    else:
        return connection_of(thing)
    return (await thing.get_raw_connection()).driver_connection
