"""
Testing: one filter alone, one handler alone, a whole bus in virtual time, laws that every filter must keep, and many orders of
what happens at once. With pytest or without it.
"""

from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.alone.run_filter import run_filter
from pipebus.testing.alone.run_handler import HandlerRun, run_handler
from pipebus.testing.alone.script import ScriptEnded, after
from pipebus.testing.clock import FakeClock
from pipebus.testing.files.file_tests import FileTest, file_tests
from pipebus.testing.harness import faults
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.running import Running
from pipebus.testing.harness.simulate import simulate
from pipebus.testing.harness.strikes import InjectedError
from pipebus.testing.harness.unexpected import HarnessError
from pipebus.testing.laws.check_filter import check_filter
from pipebus.testing.laws.search import LawBroken
from pipebus.testing.logs import captured_logs
from pipebus.testing.simulation.explore import SimulationFailed
from pipebus.testing.simulation.threads import Stuck

__all__ = [
    "FakeClock", "FileTest", "FilterBench", "FilterRun", "HandlerRun", "Harness", "HarnessError", "InjectedError",
    "LawBroken", "Running", "ScriptEnded", "SimulationFailed", "Stuck", "after", "captured_logs", "check_filter", "faults",
    "file_tests", "run_filter", "run_handler", "simulate",
]  # fmt: skip
