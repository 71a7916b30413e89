"""
The contract of transports: a test for each promise, written once, for every transport, built in or your own.

A test module runs all of it on a transport by defining the fixture `stage`:

    import pytest
    from pipebus.testing.contract import *       # TestPublish, TestDelivery, …; UrlStage

    @pytest.fixture
    def stage(tmp_path):
        stage = UrlStage(f"sqlite:///{tmp_path}/bus.db")
        yield stage
        stage.wipe()

A stage may be able to do more than open buses: end leases, kill, let other processes in, put bytes on the wire. It has the
methods of `LosesLeases`, `OpensWithLease`, `Crashes` and others (stage.py) then, and the tests use them.

**A missing capability is not skipped.** Where a transport does not promise what a test is about, the same test asserts that
requiring it raises `UnsupportedCapability`, and checks what the transport does instead.

If a transport does not keep one of the promises yet, mark its test in the fixture:

    KNOWN = {"test_same_id_is_one_message": "its server forgets ids"}

    @pytest.fixture
    def stage(request):
        if request.node.originalname in KNOWN:
            request.applymarker(pytest.mark.xfail(strict=True, reason=KNOWN[request.node.originalname]))
        …

Each class is a group of promises, and each test's docstring is one promise. No test measures speed: a bound in seconds
(`stage.patience`) is a deadline that only a broken transport misses.
"""

import pytest

GROUPS = (
    "publish", "delivery", "order", "acknowledgement", "retry", "flow", "lifecycle", "cancellation", "fidelity", "telemetry",
    "processes", "schedules", "surroundings",
)  # fmt: skip
"""The modules, a class of tests in each."""

pytest.register_assert_rewrite("pipebus.testing.contract.tools", *(f"pipebus.testing.contract.{name}" for name in GROUPS))

from pipebus.testing.contract.acknowledgement import TestAcknowledgement  # noqa: E402  (after pytest knows which asserts to rewrite)
from pipebus.testing.contract.cancellation import TestCancellation  # noqa: E402
from pipebus.testing.contract.delivery import TestDelivery  # noqa: E402
from pipebus.testing.contract.fidelity import TestFidelity  # noqa: E402
from pipebus.testing.contract.flow import TestFlow  # noqa: E402
from pipebus.testing.contract.lifecycle import TestLifecycle  # noqa: E402
from pipebus.testing.contract.order import TestOrder  # noqa: E402
from pipebus.testing.contract.processes import TestProcesses  # noqa: E402
from pipebus.testing.contract.publish import TestPublish  # noqa: E402
from pipebus.testing.contract.retry import TestRetry  # noqa: E402
from pipebus.testing.contract.schedules import TestSchedules  # noqa: E402
from pipebus.testing.contract.stage import (  # noqa: E402
    Connects,
    CountsRows,
    Crashes,
    HasChildren,
    Injects,
    LosesLeases,
    LosesMessages,
    OpensWithLease,
    RemovesGroups,
    Stage,
    Swaps,
    UrlStage,
)
from pipebus.testing.contract.surroundings import TestSurroundings  # noqa: E402
from pipebus.testing.contract.telemetry import TestTelemetry  # noqa: E402

__all__ = [
    "Connects", "CountsRows", "Crashes", "HasChildren", "Injects", "LosesLeases", "LosesMessages", "OpensWithLease",
    "RemovesGroups", "Stage", "Swaps", "TestAcknowledgement", "TestCancellation", "TestDelivery", "TestFidelity", "TestFlow",
    "TestLifecycle", "TestOrder", "TestProcesses", "TestPublish", "TestRetry", "TestSchedules", "TestSurroundings",
    "TestTelemetry", "UrlStage",
]  # fmt: skip
