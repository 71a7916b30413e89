"""
pipebus: a message bus in which every message passes an ordered chain of filters before it reaches its subscribers' queues.
"""

from types import ModuleType

from pipebus.actor import Actor
from pipebus.bus import Bus
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
    PipebusError,
    PipelineError,
    PublishUnknown,
    ReceiveTimeout,
    Rejected,
    RequestError,
    RequestFailed,
    RequestTimeout,
    SubjectChanged,
    SubjectError,
    SubscriptionError,
    TransportError,
    UnsupportedCapability,
)
from pipebus.handlers import Handlers
from pipebus.lifecycle import StopReport
from pipebus.links import Call, Pause
from pipebus.message import Dropped, Handled, Message, Outcome, Receipt
from pipebus.pipeline import Around, Filter, Pipeline, Transform, around, branch, transform, when
from pipebus.schedule import Schedule
from pipebus.signatures import Publisher, Receiver
from pipebus.subject import Ref, Subject
from pipebus.subscription import Delivery, Subscription


def _files() -> ModuleType:
    from pipebus.config import files

    return files


Bus.files = _files

__version__ = "0.6.1"

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
    "LifecycleError",
    "MailboxFull",
    "Message",
    "MessageError",
    "MessageTooLarge",
    "NoResponder",
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
    "Transform",
    "TransportError",
    "UnsupportedCapability",
    "around",
    "branch",
    "transform",
    "when",
]
