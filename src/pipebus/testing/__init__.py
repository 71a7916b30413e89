"""
Testing: one filter alone, one handler alone, a whole bus in virtual time, laws that any filter is held to, and many orders of
what happens at once. With pytest or without.
"""

from pipebus.testing import faults
from pipebus.testing.bench import FilterBench, FilterRun
from pipebus.testing.check_filter import LawBroken, check_filter
from pipebus.testing.clock import FakeClock
from pipebus.testing.explore import SimulationFailed
from pipebus.testing.faults import InjectedError
from pipebus.testing.file_tests import FileTest, file_tests
from pipebus.testing.harness import Harness, HarnessError, Running
from pipebus.testing.logs import captured_logs
from pipebus.testing.run_filter import run_filter
from pipebus.testing.run_handler import HandlerRun, run_handler
from pipebus.testing.scheduler import Stuck
from pipebus.testing.script import ScriptEnded, after
from pipebus.testing.simulate import simulate

__all__ = [
    "FakeClock",
    "FileTest",
    "FilterBench",
    "FilterRun",
    "HandlerRun",
    "Harness",
    "HarnessError",
    "InjectedError",
    "LawBroken",
    "Running",
    "ScriptEnded",
    "SimulationFailed",
    "Stuck",
    "after",
    "captured_logs",
    "check_filter",
    "faults",
    "file_tests",
    "run_filter",
    "run_handler",
    "simulate",
]
