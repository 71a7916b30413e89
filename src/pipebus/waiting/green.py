"""
Whether gevent or eventlet has put green threads in the place of real ones.

A bus has worker threads and event loops that wait for each other. Green threads take turns on one real thread, so such a wait
would stop the thread that it waits for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import LifecycleError

LIBRARIES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "gevent": ("gevent.monkey", "is_module_patched", ("threading", "_thread", "queue", "select", "selectors", "socket")),
    "eventlet": ("eventlet.patcher", "is_monkey_patched", ("thread", "select", "socket")),
}
"""For each library: the module that patches, its function that says what is patched, and the parts that a bus is built on."""


def refuse_green_threads() -> None:
    """
    Called when a bus is made, and when it starts. It imports neither library: one that has patched something is there.

    Raises:
        LifecycleError: the text says what is patched, and what to do.
    """
    for library, (module, function, parts) in LIBRARIES.items():
        patcher = sys.modules.get(module)
        if patcher is None:
            continue
        is_patched: Callable[[str], Any] = getattr(patcher, function, lambda part: False)
        patched = [part for part in parts if is_patched(part)]
        if patched:
            raise LifecycleError(
                f"{library} has monkey-patched {', '.join(patched)} in this process, and a bus needs real threads, because on "
                "green ones its workers and event loops would stop each other; use the bus in a process that is not patched "
                "(gunicorn: --worker-class gthread)"
            )
