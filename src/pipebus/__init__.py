"""
pipebus: a message bus in which every message passes an ordered chain of filters before it reaches its subscribers' queues.
"""

from types import ModuleType

from pipebus.bus.bus import Bus
from pipebus.bus.handlers import Handlers
from pipebus.bus.stopping import StopReport
from pipebus.bus.typing import Publisher, Receiver
from pipebus.delivery.actor import Actor
from pipebus.delivery.delivery import Delivery
from pipebus.delivery.subscription import Subscription
from pipebus.errors import (
    AlreadySettled,
    AttemptsExhausted,
    BusClosed,
    BusNotStarted,
    CodecError,
    ConfigError,
    ConfigProblem,
    ContractError,
    DeadLetterError,
    DrainTimeout,
    HeaderError,
    LifecycleError,
    MailboxFull,
    MessageError,
    MessageTooLarge,
    NoResponder,
    NoSubscriber,
    PipebusError,
    PipelineError,
    PublishUnknown,
    ReceiveTimeout,
    Rejected,
    RequestDropped,
    RequestError,
    RequestFailed,
    RequestTimeout,
    SubjectChanged,
    SubjectError,
    SubscriptionError,
    TooManyHops,
    TransportError,
    UnsupportedCapability,
)
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Outcome, Receipt
from pipebus.message.subject import Ref, Subject
from pipebus.pipeline.forks import branch, otherwise, switch, when
from pipebus.pipeline.pipeline import Pipeline
from pipebus.pipeline.shapes import Around, Call, Filter, Pause, Transform, around, transform
from pipebus.publishing.schedule import Schedule
from pipebus.transports.health import Health


def _files() -> ModuleType:
    from pipebus.config import files

    return files


Bus._files = _files

__version__ = "0.13.0"

__all__ = [
    "Actor",
    "AlreadySettled",
    "Around",
    "AttemptsExhausted",
    "Bus",
    "BusClosed",
    "BusNotStarted",
    "Call",
    "CodecError",
    "ConfigError",
    "ConfigProblem",
    "ContractError",
    "DeadLetterError",
    "Delivery",
    "DrainTimeout",
    "Dropped",
    "Filter",
    "Handled",
    "Handlers",
    "HeaderError",
    "Health",
    "LifecycleError",
    "MailboxFull",
    "Message",
    "MessageError",
    "MessageTooLarge",
    "NoResponder",
    "NoSubscriber",
    "Outcome",
    "Pause",
    "PipebusError",
    "Pipeline",
    "PipelineError",
    "PublishUnknown",
    "Publisher",
    "Receipt",
    "ReceiveTimeout",
    "Receiver",
    "Ref",
    "Rejected",
    "RequestDropped",
    "RequestError",
    "RequestFailed",
    "RequestTimeout",
    "Schedule",
    "StopReport",
    "Subject",
    "SubjectChanged",
    "SubjectError",
    "Subscription",
    "SubscriptionError",
    "TooManyHops",
    "Transform",
    "TransportError",
    "UnsupportedCapability",
    "around",
    "branch",
    "otherwise",
    "switch",
    "transform",
    "when",
]
