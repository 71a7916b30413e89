"""
The contract of transports: a test for each promise, written once, for transports made by anyone.

A test module runs all of it by naming its transport:

    import pytest
    from pipebus.testing.contract import *       # TestPublish, TestDelivery, …; UrlStage

    @pytest.fixture
    def stage(tmp_path):
        stage = UrlStage(f"sqlite:///{tmp_path}/bus.db")
        yield stage
        stage.wipe()

A stage may be able to do more than open buses: end leases, kill, let other processes in, put bytes on the wire. It says so by
having the methods of `LosesLeases`, `OpensWithLease`, `Crashes`, `HasChildren` or `Injects` (stage.py); tests use what there
is.

**A missing capability is not skipped.** Where a transport does not promise what a test is about, the same test asserts that
asking for it raises `UnsupportedCapability`, and what stands instead.

To say that one promise is not kept yet, mark it in the fixture:

    KNOWN = {"test_p5_retry_same_id_is_one_message": "its server forgets ids"}

    @pytest.fixture
    def stage(request):
        if request.node.originalname in KNOWN:
            request.applymarker(pytest.mark.xfail(strict=True, reason=KNOWN[request.node.originalname]))
        …

Each class is a group, each test's name begins with its number in the contract. No test measures time: a bound in seconds
(`stage.patience`) is a deadline for what must come, and only a broken transport lets it run out.
"""

import pytest

GROUPS = (
    "publish", "delivery", "order", "acknowledgement", "retry", "flow", "lifecycle", "cancellation", "fidelity", "telemetry",
    "processes",
)  # fmt: skip
"""The modules, a class of tests in each."""

pytest.register_assert_rewrite("pipebus.testing.contract.tools", *(f"pipebus.testing.contract.{name}" for name in GROUPS))

from pipebus.testing.contract.acknowledgement import TestAcknowledgement  # noqa: E402  (after the rewriting was asked for)
from pipebus.testing.contract.cancellation import TestCancellation  # noqa: E402
from pipebus.testing.contract.delivery import TestDelivery  # noqa: E402
from pipebus.testing.contract.fidelity import TestFidelity  # noqa: E402
from pipebus.testing.contract.flow import TestFlow  # noqa: E402
from pipebus.testing.contract.lifecycle import TestLifecycle  # noqa: E402
from pipebus.testing.contract.order import TestOrder  # noqa: E402
from pipebus.testing.contract.processes import TestProcesses  # noqa: E402
from pipebus.testing.contract.publish import TestPublish  # noqa: E402
from pipebus.testing.contract.retry import TestRetry  # noqa: E402
from pipebus.testing.contract.stage import (  # noqa: E402
    Crashes,
    HasChildren,
    Injects,
    LosesLeases,
    OpensWithLease,
    Stage,
    UrlStage,
)
from pipebus.testing.contract.telemetry import TestTelemetry  # noqa: E402

__all__ = [
    "Crashes",
    "HasChildren",
    "Injects",
    "LosesLeases",
    "OpensWithLease",
    "Stage",
    "TestAcknowledgement",
    "TestCancellation",
    "TestDelivery",
    "TestFidelity",
    "TestFlow",
    "TestLifecycle",
    "TestOrder",
    "TestProcesses",
    "TestPublish",
    "TestRetry",
    "TestTelemetry",
    "UrlStage",
]
