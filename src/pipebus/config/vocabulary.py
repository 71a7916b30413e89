"""What the tables of a file may hold: a model for each, with the types, defaults and meanings of its keys."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from pipebus.config.kinds import names
from pipebus.config.kinds.base import Setting
from pipebus.config.kinds.data import Data
from pipebus.config.kinds.matchers import Expectation, TextExpectation
from pipebus.config.kinds.messages import Headers, Key, Match, Pattern, Subject
from pipebus.config.kinds.plain import Count, Duration, Interval, Positive, Size, Whole
from pipebus.config.problems import Bad
from pipebus.config.sections import Form, Section, Tables
from pipebus.config.wording import Interpolated
from pipebus.values import defaults

VERSION: Final = 1

Matching = Annotated[Any, Match()]
Outcome = Literal["accepted", "dropped", "rejected", "unrouted", "failed"]
Expected = Annotated[Any, Expectation()]
ExpectedText = Annotated[Any, TextExpectation()]
OnError = Literal["reject", "dead_letter", "drop"]
Chain = Annotated[list[Any], Form('a list, as in ["log"]', (list,)), WithJsonSchema({"chain": True})]


def required(doc: str) -> Any:
    return Field(description=doc)


def optional(doc: str, default: Any = None, **more: Any) -> Any:
    return Field(default, description=doc, **more)


class Telemetry(Section):
    use: Literal["otel"] = optional("What gets it: OpenTelemetry.", "otel")
    spans: Literal["messages", "filters"] = optional(
        "Spans for messages only, or also for each filter and handler.", "messages"
    )
    parent: Literal["link", "child"] = optional("How a handler's span belongs to the one that published.", "link")


class Bus(Section):
    transport: str = optional('What carries messages: a URL, as in "memory:".', "memory:")
    name: str = optional("For thread names and logs.", "pipebus")
    pool: Positive | None = optional("Worker threads for handlers.")
    dead_letters: Positive = optional("Most dead letters kept; the oldest go first.", defaults.DEAD_LETTERS)
    max_message_bytes: Size | None = optional("Largest encoded message.")
    max_hops: Positive = optional("How many handlers may pass a conversation on, one after the other.", defaults.MAX_HOPS)
    require: dict[str, Data] | None = optional("Capabilities that the transport must promise.")
    drain: bool | None = optional("Whether a stop handles all waiting messages first. Left out: in memory only.")
    strict: bool = optional("Whether a publish to which nobody listens is an error.", False)
    debug: bool = optional("Also look for mistakes that are too costly to look for always.", False)
    telemetry: (
        Annotated[Telemetry, Form('"otel", or a table, as in { use = "otel", spans = "filters" }', word="otel")] | None
    ) = optional("Traces and metrics of the bus.")


class Pipeline(Section):
    at: Literal["publish", "delivery"] = optional("Where the chain runs.", "publish")
    match: Matching = optional("Only for these messages.")
    on_error: OnError | None = optional("What happens when one of its filters fails.")
    filters: Chain = required("The filters, in the order in which they run.")


class Mailbox(Section):
    size: Positive = optional("Most messages queued and in flight.", defaults.MAILBOX_SIZE)
    overflow: defaults.Overflow = optional("What happens when the mailbox is full.", defaults.OVERFLOW)
    timeout: Duration = optional('How long "block" waits.', defaults.OVERFLOW_TIMEOUT)


class Subscription(Section):
    name: str = required("Its stable name, used in figures, dead letters and tests.")
    subject: Pattern | Annotated[list[Pattern], Field(min_length=1)] = required('A pattern, as in "orders.>", or a list.')
    handler: str | None = optional(
        'What handles messages: a name that the program hands in, or "module:function". Left out: the program reads the '
        "messages itself."
    )
    workers: Positive = optional("How many messages may be handled at once.", defaults.WORKERS)
    run: Literal["pool", "thread", "loop"] | None = optional("Where the handler runs.")
    mailbox: Annotated[
        Positive | Mailbox, Form("a whole number, or a table, as in { size = 100 }", (int, dict, Interpolated))
    ] = optional("Room for waiting messages.")
    attempts: Positive = optional("How often a message is delivered before it becomes a dead letter.", defaults.ATTEMPTS)
    deliver: Literal["new", "all", "last"] = optional("Where to begin, on transports that replay.", defaults.DELIVER)
    to: Subject | None = optional("Subject on which the value that the handler returns is published.")
    filters: Chain = optional("The delivery chain of this subscription alone, in the order in which it runs.", ())


class _Recurring(Section):
    subject: Subject = required("The subject of the messages.")
    body: Data = optional("Their body: any data.")
    headers: Headers | None = optional("Their headers.")
    key: Key | None = optional("Keeps the order among messages of equal key.")
    ttl: Interval | None = optional("Age after which a message is dropped.")
    delay: Duration = optional("Time before a message may be handled.", 0.0)
    reply_to: Subject | None = optional("Subject for an answer.")
    correlation_id: str | None = optional("Marks messages that belong together.")
    strict: bool | None = optional("Whether it is an error if nobody listens. Left out: as the bus says.")
    name: str | None = optional("The same in all processes of a store: one of them publishes each message.")
    now: bool = optional("Whether it also publishes when the bus starts.", False)
    missed: Literal["skip", "once"] = optional(
        'What becomes of messages that were due while no process ran; "once": the last one comes at the next start.', "skip"
    )


class _Every(Section):
    interval: Interval = required('Time between two messages, as in "60s".')


class _Cron(Section):
    expression: str = required('Minute, hour, day of month, month and day of week, as in "0 3 * * 1-5".')
    timezone: str = optional('The time zone of these times, as in "Europe/Berlin".', "UTC")


class Every(_Recurring, _Every):
    """Its own key comes first: pydantic begins with the fields of the last base."""


class Cron(_Recurring, _Cron):
    pass


# --- entries of chains ---------------------------------------------------------------------------------------------------

OTHERWISE: Final = 'otherwise comes after the cases of a switch, as in { switch = […], otherwise = ["log"] }'


class When(Section):
    when: Matching = required("For these messages.")
    filters: Chain = required("The filters.")

    @classmethod
    def unknown(cls, key: str, known: list[str]) -> str:
        return OTHERWISE if key == "otherwise" else super().unknown(key, known)


class Branch(Section):
    branch: Matching = required("For these messages.")
    filters: Chain = required("The filters.")


def _case(value: Any) -> Any:
    if isinstance(value, dict) and "otherwise" in value:
        raise Bad(OTHERWISE)
    return value


class Switch(Section):
    switch: Annotated[
        list[Annotated[When, BeforeValidator(_case)]],
        Field(min_length=1),
        Form('a list of cases, as in [{ when = "orders.>", filters = ["log"] }]', (list,)),
    ] = required("The cases: a message takes the first one that applies, then what follows the switch.")
    otherwise: Chain | None = optional("The filters for messages that no case takes. Left out: they go straight on.")


class Inner(Section):
    on_error: OnError | None = optional("What happens when one of its filters fails.")
    filters: Chain = required("The filters.")


class _Open(Section):
    model_config = ConfigDict(extra="allow")


Handler: Any = create_model("Handler", __base__=_Open, handler=(Annotated[Any, names.HANDLER], ...))
"""A subscription whose handler is imported."""

Reference: Any = create_model("Reference", __base__=Section, use=(str, ...))
"""A filter by its name."""

Use: Any = create_model("Use", __base__=_Open, use=(str, ...))
"""A filter: which one. The other keys depend on it."""

Target: Any = create_model("Target", __base__=_Open, target=(Annotated[Any, names.OBJECT], ...))
"""A filter in Python."""

# --- [[tests]] -----------------------------------------------------------------------------------------------------------


class Publish(Section):
    subject: Subject = required("The subject of the message.")
    body: Data = optional("The body: any data.", alias="json")
    headers: Headers | None = optional("Texts by name.")
    key: Key | None = optional("Keeps the order among messages of equal key.")
    id: str | None = optional("An id of your own.")
    ttl: Interval | None = optional("Age after which it is dropped.")
    after: Duration = optional("Time that passes between the message before and this one.", 0.0)

    @classmethod
    def unknown(cls, key: str, known: list[str]) -> str:
        return '"body" is written json here, as in json = { id = 1 }' if key == "body" else super().unknown(key, known)


_RAISES: Final = 'An error that it raises: its text, or with a class, as in "ConnectionError: down".'


class Handling(Section):
    returns: Data = optional("What it returns.")
    raises: str | None = optional(_RAISES)
    times: Positive | None = optional("How often it raises before it succeeds. Left out: always.")


class Filtering(Section):
    drops: str | None = optional("It drops each message, with this reason.")
    rejects: str | None = optional("It rejects each message, with this reason.")
    raises: str | None = optional(_RAISES)
    times: Positive | None = optional("How often it does so before it lets messages pass. Left out: always.")


HandlerStandIn = Annotated[Handling, Form("a table, as in {} or { returns = 1 }")]
FilterStandIn = Annotated[Filtering, Form('"pass", or a table, as in { drops = "why" }', word="pass")]


class Replacements(Section):
    handlers: dict[str, HandlerStandIn] = optional("By the subscription's name; * for all others.", {})
    filters: dict[str, FilterStandIn] = optional("By the filter's name.", {})


class Received(Section):
    """The fields of a message about which a test may expect something."""

    subject: Expected = optional("Its subject.")
    body: Expected = optional("Its body.")
    headers: Expected = optional("Its headers.")
    key: Expected = optional("Its key.")
    id: Expected = optional("Its id.")


class Expect(Section):
    outcome: Outcome | list[Outcome] | None = optional("What becomes of each published message.")
    by: str | None = optional("Name of the filter that drops or rejects it.")
    reason: ExpectedText = optional("Why it is dropped or rejected, or fails.")
    deliveries: Count | dict[str, Count] | None = optional("Number of handled messages, in all or by subscription.")
    dead: Count | dict[str, Count] | None = optional("Number of dead letters, in all or by subscription.")
    published: Annotated[list[Received], Tables("{ body = 1 }")] | None = optional(
        "What passes the publish chain, from the test, schedules and handlers: the fields that matter."
    )
    received: Annotated[
        dict[str, Annotated[list[Received], Tables("[[received]]")]],
        Form("a table of subscriptions, as in { billing = [{ body = 1 }] }"),
    ] = optional("What each subscription handled, as it reached its mailbox: the fields that matter.", {})
    error: ExpectedText = optional("The error of a dead letter.")


class Test(Section):
    name: str = required("Its name in the results.")
    publish: Annotated[list[Publish], Tables('{ subject = "orders.created" }')] = optional(
        "What is published, in this order. Left out: only schedules publish, while time advances.", ()
    )
    replace: Replacements = Field(default_factory=Replacements, description="What replaces handlers and filters.")
    advance: Duration = optional("Time that passes after the last of these messages.", 0.0)
    expect: Expect = required("The expected result.")


class File(Section):
    version: Whole = required("Version of this format: 1.")
    bus: Bus | None = optional("The bus as a whole.")
    filters: dict[str, Annotated[dict[str, Any], Form('a table, as in { use = "log" }')]] = optional("Named filters.", {})
    pipelines: Annotated[list[Pipeline], Tables("[[pipelines]]", "pipelines")] = optional(
        "Chains of filters for all subscriptions, in their order.", ()
    )
    subscriptions: Annotated[list[Subscription], Tables("[[subscriptions]]", "subscriptions")] = optional(
        "Who receives which messages, each in a mailbox of its own.", ()
    )
    every: Annotated[list[Every], Tables("[[every]]", "every")] = optional(
        "Messages that are published at regular intervals.", ()
    )
    cron: Annotated[list[Cron], Tables("[[cron]]", "cron")] = optional(
        "Messages that are published at times of the calendar.", ()
    )
    tests: Annotated[list[Test], Tables("[[tests]]", "tests")] = optional("What pipebus test checks, in virtual time.", ())


TEST: Final = Setting(Matching)
