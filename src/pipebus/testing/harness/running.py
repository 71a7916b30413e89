"""A call that runs on a thread of the harness."""

import threading
from collections.abc import Callable
from typing import Any

from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.threads import Over


class Running:
    """A call on a thread of the harness; see `Harness.thread`."""

    def __init__(self, simulation: Simulation, call: Callable[[], Any], name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.error_seen = False
        self._simulation = simulation
        self._value: Any = None
        self._call = call
        self.task = simulation.adopt(threading.Thread(target=self._run, name=name, daemon=True))

    def _run(self) -> None:
        try:
            self._value = self._call()
        except Over:
            raise
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        """Whether the call has returned or raised."""
        return self.task.ended

    def result(self) -> Any:
        """Let the call and all other threads run until the call has ended. Return what it returned, or raise what it raised."""
        self._simulation.join(self.task)
        if self.error is not None:
            self.error_seen = True
            raise self.error
        return self._value
