"""
The names that OpenTelemetry's semantic conventions for messaging give to what this package emits: version 1.44.0.

No other module has one of these names. What the conventions do not know has the prefix `messaging.pipebus.`, as they ask.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "1.44.0"
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{VERSION}"

# --- values ------------------------------------------------------------------------------------------------------------

PIPEBUS: Final = "pipebus"
"""The messaging system."""

SEND: Final = "send"
RECEIVE: Final = "receive"
PROCESS: Final = "process"
SETTLE: Final = "settle"
"""The operations: `messaging.operation.name` and `messaging.operation.type` are the same here."""

# --- attributes --------------------------------------------------------------------------------------------------------

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
DESTINATION_TEMPLATE: Final = "messaging.destination.template"
DESTINATION_ANONYMOUS: Final = "messaging.destination.anonymous"
DESTINATION_TEMPORARY: Final = "messaging.destination.temporary"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
EXCEPTION: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# --- metrics -----------------------------------------------------------------------------------------------------------

SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"

MESSAGES: Final = "{message}"
SECONDS: Final = "s"
BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets of both durations."""

# --- beyond the conventions --------------------------------------------------------------------------------------------

BUS: Final = "messaging.pipebus.bus"
"""The name of the bus: a program may have several."""
ATTEMPT: Final = "messaging.pipebus.attempt"
"""Which attempt at a delivery this is, from 1."""
VERDICT: Final = "messaging.pipebus.verdict"
"""What became of it: of a message ("accepted", "dropped", …), a delivery ("acknowledged", …), or in a filter ("passed", …)."""
REASON: Final = "messaging.pipebus.reason"
"""Why a message was dropped or refused."""
BY: Final = "messaging.pipebus.by"
"""The filter that dropped it."""
MAILBOXES: Final = "messaging.pipebus.mailboxes"
"""How many mailboxes took the message; a store counts as one."""
DUPLICATE: Final = "messaging.pipebus.duplicate"
"""The transport had the id of this message already."""
FILTER: Final = "messaging.pipebus.filter."
"""Begins the names of what a filter shows of its state, such as `messaging.pipebus.filter.state`."""
PASSES: Final = "messaging.pipebus.passes"
"""How often a filter ran the rest of its chain, if more than once."""
