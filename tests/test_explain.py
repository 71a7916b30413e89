"""`describe()` and `explain()`: what they report about the bus, as data and as text, must be true."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from pipebus import Bus, Message, Pipeline, Ref, Subject, SubjectError, Transform, branch, when
from pipebus.filters import Enrich, Expire, Log, Reroute, SetHeaders, Tap, Validate


class Order(BaseModel):
    id: int


def stamp(message: Message, call_next: Any) -> Any:
    return call_next(message.with_headers(stamp="yes"))


def is_debug(message: Message) -> bool:
    return message.headers.get("debug") == "1"


def has_total(message: Message) -> bool:
    return bool(message.body["total"])


def look(message: Message) -> None:
    """The function that `Tap` calls."""


def bill(order: Order) -> None:
    """A handler."""


def archive(message: Message) -> None:
    """Another handler."""


def rich_bus() -> Bus:
    """A bus with one of everything that a chain can hold."""
    bus = Bus()
    bus.use(when(is_debug, Tap(look)), Log(redact=["password"]), Validate({"orders.>": Order}))
    bus.use(Pipeline(SetHeaders({"tenant": "acme"}), stamp, on_error="dead_letter"))
    bus.use(when("reports.>", Expire("1m"), branch("reports.daily", Enrich({"cached": True}))))
    bus.use(branch("audit.>", SetHeaders({"audited": "yes"})), Enrich({"late": 1}))
    bus.use(Log(level="debug"), when("orders.>", SetHeaders({"seen": "yes"})), at="delivery")
    bus.subscribe(
        "orders.created",
        bill,
        name="billing",
        workers=4,
        mailbox=100,
        overflow="reject",
        to="bills.made",
        filters=[Expire(60.0)],
    )
    bus.subscribe(["audit.>", "orders.>"], archive, name="archive", overflow_timeout=2.5)
    bus.subscribe(Subject[list[int]]("orders.*"), name="reader", filters=[SetHeaders({"read": "yes"})], overflow="drop_oldest")
    return bus


def approved(text: str) -> str:
    """Return the text with each place in this file replaced by HERE, so that neither the folder nor a line number matters."""
    return re.sub(r"\S*test_explain\.py:\d+", "HERE", text)


# --- explain, as approved ----------------------------------------------------------------------------------------------


def test_explain_a_subject() -> None:
    """
    The text shows each filter with its settings and place, what is taken and what is not, and each mailbox with its policy.
    """
    expected = """\
orders.created

publish chain
  when(is_debug)                                       asked for each message                    HERE
    Tap(target='test_explain:look')                                                              HERE
  Log(redact=['password'])                                                                       HERE
  Validate(models={'orders.>': 'test_explain:Order'})                                            HERE
  Pipeline                                             on_error=dead_letter                      HERE
    SetHeaders(headers={'tenant': 'acme'})                                                       HERE
    stamp                                                                                        HERE
  when("reports.>")                                    not taken: orders.created does not match  HERE
  branch("audit.>")                                    not taken: orders.created does not match  HERE
  Enrich(add={'late': 1})                                                                        HERE

mailboxes
  archive on audit.>, orders.>  [pool, 1 worker; block at 10,000, 2.5 s]  HERE
    Log(level='debug')                                                    HERE
    when("orders.>")                       taken: orders.created matches  HERE
      SetHeaders(headers={'seen': 'yes'})                                 HERE
    -> archive
  billing on orders.created  [pool, 4 workers; reject at 100]  HERE
    Log(level='debug')                                                         HERE
    when("orders.>")                       taken: orders.created matches       HERE
      SetHeaders(headers={'seen': 'yes'})                                      HERE
    Expire(ttl=60.0)                                                           HERE
    -> bill                                what it returns goes to bills.made
  reader on orders.*  [pull: read by its owner as list[int]; drop_oldest at 10,000]  HERE
    when("orders.>")                          taken: orders.created matches        HERE
      SetHeaders(headers={'seen': 'yes'})                                          HERE
    (bus-wide filters other than Transforms)  not for readers: they wrap handlers
    SetHeaders(headers={'read': 'yes'})                                            HERE
"""
    assert approved(rich_bus().explain("orders.created")) == expected


def test_explain_a_subject_whose_branch_is_taken() -> None:
    """What a branch skips is named, and so is what takes it."""
    expected = """\
audit.login

publish chain
  when(is_debug)                                       asked for each message                 HERE
    Tap(target='test_explain:look')                                                           HERE
  Log(redact=['password'])                                                                    HERE
  Validate(models={'orders.>': 'test_explain:Order'})                                         HERE
  Pipeline                                             on_error=dead_letter                   HERE
    SetHeaders(headers={'tenant': 'acme'})                                                    HERE
    stamp                                                                                     HERE
  when("reports.>")                                    not taken: audit.login does not match  HERE
  branch("audit.>")                                    taken: audit.login matches             HERE
    SetHeaders(headers={'audited': 'yes'})                                                    HERE
  (Enrich)                                             skipped: a branch was taken

mailboxes
  archive on audit.>, orders.>  [pool, 1 worker; block at 10,000, 2.5 s]  HERE
    Log(level='debug')                                         HERE
    when("orders.>")    not taken: audit.login does not match  HERE
    -> archive
"""
    assert approved(rich_bus().explain("audit.login")) == expected


def test_explain_a_branch_inside_a_detour() -> None:
    """A branch leaves the whole chain, so what follows the detour is skipped too."""
    expected = """\
reports.daily

publish chain
  when(is_debug)                                       asked for each message        HERE
    Tap(target='test_explain:look')                                                  HERE
  Log(redact=['password'])                                                           HERE
  Validate(models={'orders.>': 'test_explain:Order'})                                HERE
  Pipeline                                             on_error=dead_letter          HERE
    SetHeaders(headers={'tenant': 'acme'})                                           HERE
    stamp                                                                            HERE
  when("reports.>")                                    taken: reports.daily matches  HERE
    Expire(ttl=60.0)                                                                 HERE
    branch("reports.daily")                            taken: reports.daily matches  HERE
      Enrich(add={'cached': True})                                                   HERE
  (branch("audit.>"), Enrich)                          skipped: a branch was taken

mailboxes: nobody listens (a Receipt with 0 mailboxes, and an Unrouted event)
"""
    assert approved(rich_bus().explain("reports.daily")) == expected


def test_explain_an_object() -> None:
    """No pattern matches an object; unscoped filters see its mail."""
    bus = rich_bus()
    thing = Ref("thing")
    bus.subscribe(thing, archive, name="owner")
    expected = """\
Ref('thing')

publish chain
  when(is_debug)                                       asked for each message                  HERE
    Tap(target='test_explain:look')                                                            HERE
  Log(redact=['password'])                                                                     HERE
  Validate(models={'orders.>': 'test_explain:Order'})                                          HERE
  Pipeline                                             on_error=dead_letter                    HERE
    SetHeaders(headers={'tenant': 'acme'})                                                     HERE
    stamp                                                                                      HERE
  when("reports.>")                                    not taken: Ref('thing') does not match  HERE
  branch("audit.>")                                    not taken: Ref('thing') does not match  HERE
  Enrich(add={'late': 1})                                                                      HERE

mailboxes
  owner on Ref('thing')  [pool, 1 worker; block at 10,000, 5 s]  HERE
    Log(level='debug')                                          HERE
    when("orders.>")    not taken: Ref('thing') does not match  HERE
    -> archive
"""
    assert approved(bus.explain(thing)) == expected


def test_explain_a_message() -> None:
    """The first predicate is evaluated for the message itself."""
    bus = Bus()
    bus.use(when(is_debug, Tap(look)), when(has_total, Tap(look)))
    bus.subscribe("orders.*", name="reader")
    expected = """\
orders.created

publish chain
  when(is_debug)                     taken: is_debug is True for this message                           HERE
    Tap(target='test_explain:look')                                                                     HERE
  when(has_total)                    asked for each message; filters before it may change what it sees  HERE
    Tap(target='test_explain:look')                                                                     HERE

mailboxes
  reader on orders.*  [pull: read by its owner; block at 10,000, 5 s]  HERE
"""
    assert approved(bus.explain(Message("orders.created", {}, headers={"debug": "1"}))) == expected


def test_explain_a_message_that_a_predicate_cannot_read() -> None:
    """The text says what the predicate raises; `explain` does not fail, and it lists the filters of the branch."""
    bus = Bus()
    bus.use(branch(has_total, Tap(look)), stamp)
    text = bus.explain(Message("orders.created", {}))
    assert "unknown: has_total raises KeyError for this message: 'total'" in text
    assert re.search(r"^ +Tap\b", text, re.MULTILINE)
    assert "skipped" not in text


def test_explain_what_stands_behind_a_reroute() -> None:
    """After a filter that may change the subject, nothing is certain, and nothing is called skipped."""
    bus = Bus()
    bus.use(Reroute("flights.{body.origin}"), branch("flights.>", Tap(look)), Enrich({"late": 1}))
    expected = """\
raw

publish chain
  Reroute(to='flights.{body.origin}')  may change the subject: what follows depends on it  HERE
  branch("flights.>")                  depends on the new subject                          HERE
    Tap(target='test_explain:look')                                                        HERE
  Enrich(add={'late': 1})                                                                  HERE

mailboxes, if the subject stays: nobody listens (a Receipt with 0 mailboxes, and an Unrouted event)
"""
    assert approved(bus.explain("raw")) == expected


def test_explain_an_empty_bus() -> None:
    """The text says in words that there is no filter and no subscriber."""
    assert Bus().explain("a") == (
        "a\n\npublish chain: no filter\n\nmailboxes: nobody listens (a Receipt with 0 mailboxes, and an Unrouted event)\n"
    )


# --- explain, what it must not say -------------------------------------------------------------------------------------


def test_a_predicate_behind_a_filter_is_not_decided_by_the_message_as_it_came() -> None:
    """A filter in front may change what the predicate looks at: the detour is listed, and nothing is called skipped."""
    bus = Bus()
    bus.use(SetHeaders({"debug": "1"}), branch(is_debug, Tap(look)), stamp)
    for message in (Message("a"), Message("a", None, headers={"debug": "1"})):
        text = bus.explain(message)
        assert re.search(r"^ +Tap\b", text, re.MULTILINE)
        assert re.search(r"^ +stamp\b", text, re.MULTILINE)
        assert "skipped" not in text


def test_the_old_subject_s_mailboxes_are_not_told_as_the_end_of_a_rerouted_road() -> None:
    """The message may go to another subject, so the text does not say that nobody listens to the old one."""
    bus = Bus()
    bus.use(Reroute("flights.{body.origin}"))
    bus.subscribe("flights.>", archive, name="archive")
    assert "\nmailboxes: nobody listens" not in bus.explain("raw")


def test_explain_refuses_what_cannot_be_published_to() -> None:
    """A wildcard matches many subjects, so it has more than one path to explain."""
    with pytest.raises(SubjectError, match="wildcard"):
        rich_bus().explain("orders.*")


def test_places_are_where_the_registration_stands() -> None:
    """The text shows the file and line of `use`, `when`, `Pipeline` and `subscribe`, so that a person can go there."""
    bus = Bus()
    here = inspect.currentframe()
    assert here is not None
    bus.use(stamp)
    used = here.f_lineno - 1
    chain = Pipeline(Log())
    made = here.f_lineno - 1
    bus.use(chain)
    bus.subscribe("a", archive, name="archive")
    subscribed = here.f_lineno - 1
    described = bus.describe()
    places = [
        described["publish"][0],
        described["publish"][1],
        described["publish"][1]["filters"][0],
        described["subscriptions"][0],
    ]
    assert [place["place"].rpartition(":")[2] for place in places] == [str(line) for line in (used, made, made, subscribed)]
    assert all(place["place"].rpartition(":")[0].endswith("test_explain.py") for place in places)
    assert f"test_explain.py:{used}" in bus.explain("a")


def test_explain_tells_the_same_before_and_after_start() -> None:
    """The explanation shows what was registered, whether the bus runs already or not."""
    bus = rich_bus()
    before = bus.explain("orders.created")
    with bus:
        assert bus.explain("orders.created") == before
    assert bus.explain("orders.created") == before


def test_explain_runs_no_filter() -> None:
    """Only predicates are asked, and only for a message."""
    called: list[str] = []

    class Loud(Transform):
        def transform(self, message: Message, /) -> Message:
            called.append("filter")
            return message

    def predicate(message: Message) -> bool:
        called.append("predicate")
        return True

    bus = Bus()
    bus.use(when(predicate, Loud()), Loud())
    bus.explain("a")
    assert called == []
    bus.explain(Message("a"))
    assert called == ["predicate"]


# --- describe ----------------------------------------------------------------------------------------------------------


def test_describe_is_json_and_the_same_each_time() -> None:
    """The same program, built twice, is described by the same data, which survives JSON."""
    one, other = rich_bus(), rich_bus()
    for bus in (one, other):
        bus.subscribe("unnamed.>")
        bus.subscribe("unnamed.>", archive)
    assert json.loads(json.dumps(one.describe())) == one.describe()
    assert one.describe() == one.describe() == other.describe()


def test_describe_does_not_depend_on_the_order_of_subscribing() -> None:
    """Subscriptions are listed by name; filters keep their order, which means something."""

    def build(names: list[str]) -> Bus:
        bus = Bus()
        for name in names:
            bus.subscribe("a", archive, name=name)
        return bus

    assert build(["x", "y", "z"]).describe() == build(["z", "x", "y"]).describe()


def test_describe_tells_each_node() -> None:
    """Each node has the kind, shape, colour and settings of a filter, the test of a detour, or the rule of a pipeline."""
    described = rich_bus().describe()
    debug, log, validate, pipeline, reports, audit, enrich = (without_places(node) for node in described["publish"])
    assert debug["when"] == {"predicate": f"{__name__}:is_debug"}
    assert debug["filters"][0]["settings"] == {"target": f"{__name__}:look"}
    assert log == {
        "filter": "Log", "is": "pipebus.filters.log:Log", "shape": "around", "colour": "both",
        "settings": {"level": "info", "body": False, "headers": False, "redact": ["password"]},
    }  # fmt: skip
    assert validate["settings"]["models"] == {"orders.>": f"{__name__}:Order"}
    assert pipeline["pipeline"] == "dead_letter"
    assert pipeline["filters"][1] == {
        "filter": "stamp", "is": f"{__name__}:stamp", "shape": "plain", "colour": "sync", "settings": {},
    }  # fmt: skip
    assert reports["when"] == "reports.>"
    assert reports["filters"][0]["settings"] == {"ttl": 60.0}
    assert reports["filters"][1]["branch"] == "reports.daily"
    assert (audit["branch"], enrich["filter"]) == ("audit.>", "Enrich")
    assert [node.get("filter", node.get("when")) for node in described["delivery"]] == ["Log", "orders.>"]


def test_describe_tells_each_subscription() -> None:
    """Each subscription shows its subjects, how it runs, and the policy of its mailbox."""
    archive_, billing, reader = (without_places(found) for found in rich_bus().describe()["subscriptions"])
    assert {key: value for key, value in billing.items() if key != "filters"} == {
        "name": "billing", "subjects": ["orders.created"], "handler": f"{__name__}:bill", "reads": None, "run": "pool",
        "workers": 4,
        "mailbox": {"size": 100, "overflow": "reject", "timeout": 5.0}, "attempts": 3, "deliver": "new",
        "to": "bills.made",
    }  # fmt: skip
    assert [node["filter"] for node in billing["filters"]] == ["Expire"]
    assert (archive_["subjects"], archive_["mailbox"]["timeout"]) == (["audit.>", "orders.>"], 2.5)
    assert (reader["handler"], reader["reads"], reader["run"]) == (None, "list[int]", "pull")
    assert reader["mailbox"]["overflow"] == "drop_oldest"


def test_settings_that_repr_leaves_out_are_hidden() -> None:
    """A key of a filter is shown nowhere, if its author keeps it out of `repr` as usual."""

    @dataclass(eq=False)
    class Sign(Transform):
        key: str = field(repr=False)

        def transform(self, message: Message) -> Message:
            return message

    bus = Bus()
    bus.use(Sign("a secret"))
    with bus:
        assert bus.describe()["publish"][0]["settings"] == {"key": "[hidden]"}
        assert "Sign(key='[hidden]')" in bus.explain("s")
        assert "a secret" not in f"{bus.describe()}{bus.explain('s')}"


def test_describe_makes_json_of_whatever_settings_hold() -> None:
    """Functions, types, sets and objects all have a readable, JSON-safe form."""

    @dataclass(eq=False)
    class Odd(Transform):
        function: Any
        type: Any
        names: set[str]
        nested: Mapping[Any, Any]
        span: timedelta
        bound: Any

        def transform(self, message: Message, /) -> Message:
            return message

    bus = Bus()
    bus.use(Odd(look, Order, {"b", "a"}, {1: [(2, look)]}, timedelta(seconds=90), "text".upper))
    (node,) = bus.describe()["publish"]
    assert json.loads(json.dumps(node)) == node
    assert {key: node["settings"][key] for key in ("function", "type", "names", "nested", "span")} == {
        "function": f"{__name__}:look",
        "type": f"{__name__}:Order",
        "names": ["a", "b"],
        "nested": {"1": [[2, f"{__name__}:look"]]},
        "span": "0:01:30",
    }


def without_places(node: dict[str, Any]) -> dict[str, Any]:
    inside = {"filters": [without_places(inner) for inner in node["filters"]]} if "filters" in node else {}
    return {key: value for key, value in node.items() if key != "place"} | inside
