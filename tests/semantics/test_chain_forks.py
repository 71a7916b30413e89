"""Forks in the chain, guarantees 5 to 7: branches, detours, and the tests that decide them."""

import sys
from typing import Any

import pytest

from pipebus import (
    Bus,
    Dropped,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Subject,
    around,
    branch,
    otherwise,
    switch,
    transform,
    when,
)
from pipebus.events import Refused
from pipebus.filters import Reroute
from tables import table

ORDERS, BILLS = "orders.created", "bills.paid"


@pytest.fixture(params=["pattern", "predicate"])
def about(request):
    """A test for subjects that begin with "orders." or end with ".created", in both forms."""

    def make(part: str) -> Any:
        if request.param == "pattern":
            return f"{part}>" if part.endswith(".") else f"*{part}"
        return lambda message: message.subject.startswith(part) or message.subject.endswith(part)

    return make


def passing(message, call_next):
    return call_next(message)


# --- 5. branch does not rejoin -----------------------------------------------------------------------------------------


def test_s05_a_branch_skips_the_later_filters_and_reaches_the_same_end(chain, trail, about):
    """Filters before a branch run as usual; after it the message skips the rest and goes straight to the end of the chain."""
    result = chain.run(trail("A"), branch(about("orders."), trail("X"), trail("Y")), trail("B"))

    assert trail == ["A in", "X in", "Y in", "T", "Y out", "X out", "A out"]
    assert [message.subject for message in result.received] == [ORDERS]


def test_s05_a_branch_that_does_not_match_is_as_if_it_were_absent(chain, trail, about):
    """Messages that do not match pass as if the branch did not exist."""
    result = chain.run(trail("A"), branch(about("bills."), trail("X")), trail("B"))

    assert trail == ["A in", "B in", "T", "B out", "A out"]
    assert [message.subject for message in result.received] == [ORDERS]


def test_s05_the_first_branch_that_matches_wins(chain, trail, about):
    """A message that has left through a branch does not meet later branches."""
    chain.run(branch(about("bills."), trail("X")), branch(about("orders."), trail("Y")), branch(about(".created"), trail("Z")))

    assert trail == ["Y in", "T", "Y out"]


def test_s05_an_empty_branch_goes_straight_to_the_end(chain, trail, about):
    """A branch without filters lets some messages skip the rest of the chain."""
    result = chain.run(trail("A"), branch(about("orders.")), trail("B"))

    assert trail == ["A in", "T", "A out"]
    assert len(result.received) == 1


@pytest.mark.parametrize(
    "container",
    [lambda node: when("*.created", node), lambda node: when(lambda message: True, node), Pipeline],
    ids=["when by pattern", "when by predicate", "pipeline"],
)
def test_s05_a_branch_leaves_the_whole_chain_from_wherever_it_stands(chain, trail, about, container):
    """A branch inside a detour or a Pipeline also skips what follows the detour or the Pipeline."""
    chain.run(trail("A"), container(Pipeline(branch(about("orders."), trail("X")), trail("B"))), trail("C"))

    assert trail == ["A in", "X in", "T", "X out", "A out"]


def test_s05_a_branch_inside_a_branch_leaves_that_one_too(chain, trail, about):
    """With nested branches, the inner one also skips what is left of the outer one."""
    chain.run(branch(about("orders."), trail("X"), branch(about(".created"), trail("Y")), trail("Z")), trail("B"))

    assert trail == ["X in", "Y in", "T", "Y out", "X out"]


def test_s05_an_inner_branch_that_does_not_match_goes_on_along_the_outer_one(chain, trail, about):
    """A message that does not match the inner branch continues along the outer one."""
    chain.run(branch(about("orders."), trail("X"), branch(about(".changed"), trail("Y")), trail("Z")), trail("B"))

    assert trail == ["X in", "Z in", "T", "Z out", "X out"]


def test_s05_a_drop_inside_a_branch_ends_the_message(chain, step, trail, about):
    """A filter in a branch may drop the message, and the filters in front of the branch see the drop."""

    def x(message):
        return Dropped("not here")
        yield

    result = chain.run(trail("A"), branch(about("orders."), step(x)), trail("B"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.received) == (Dropped("not here", by="x"), [])


@pytest.mark.parametrize("wild", [False, True], ids=["literal", "wildcard"])
def test_s05_a_branch_of_the_bus_ends_the_bus_s_part_only(about, wild):
    """The subscription's own filters still run, because a branch of the bus cannot skip them."""
    seen = []

    def named(name):
        def filter(message, call_next):
            seen.append(name)
            return call_next(message)

        return filter

    bus = Bus()
    bus.use(branch(about("orders."), named("branch")), named("bus"), at="delivery")
    bus.subscribe(">" if wild else ORDERS, lambda message: seen.append("handler"), filters=[named("own")])
    with bus:
        bus.publish(ORDERS)
        bus.drain(timeout=10)

    assert seen == ["branch", "own", "handler"]


def test_s05_a_branch_of_the_bus_is_one_for_readers_too(about):
    """A reader gets only the Transforms of the bus's delivery chain, and a branch skips the same ones for it."""

    @around
    def only_for_handlers(message):
        return (yield message)

    @transform
    def mark(message):
        return message.with_headers(marked="yes")

    bus = Bus()
    bus.use(branch(about("orders."), only_for_handlers), mark, at="delivery")
    reader = bus.subscribe(">")
    with bus:
        bus.publish(ORDERS)
        bus.publish(BILLS)
        marked = [(message.subject, "marked" in message.headers) for message in (reader.receive(10), reader.receive(10))]

    assert marked == [(ORDERS, False), (BILLS, True)]


# --- 6. when rejoins ---------------------------------------------------------------------------------------------------


def test_s06_a_detour_wraps_the_rest_and_comes_back(chain, trail, about):
    """The message passes the detour, the rest, and then the detour and the outer filter again on the way out."""
    chain.run(trail("A"), when(about("orders."), trail("X"), trail("Y")), trail("B"))

    assert trail == ["A in", "X in", "Y in", "B in", "T", "B out", "Y out", "X out", "A out"]


def test_s06_a_detour_that_does_not_match_is_as_if_it_were_absent(chain, trail, about):
    """Messages that do not match pass as if the detour did not exist."""
    chain.run(trail("A"), when(about("bills."), trail("X")), trail("B"))

    assert trail == ["A in", "B in", "T", "B out", "A out"]


def test_s06_a_detour_filter_that_ends_the_message_ends_the_rest_too(chain, step, trail, about):
    """If a filter in a detour does not call on, the filters behind the detour do not run."""

    def x(message):
        return Dropped("not here")
        yield

    result = chain.run(trail("A"), when(about("orders."), step(x)), trail("B"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.received) == (Dropped("not here", by="x"), [])


def test_s06_an_error_in_a_detour_unwinds_through_the_outer_filters(chain, step, trail, about):
    """An error in a detour reaches the caller as the same object."""
    error = ValueError("in the detour")

    def x(message):
        raise error
        yield

    result = chain.run(trail("A"), when(about("orders."), step(x)), trail("B"))

    assert trail == ["A in"]
    assert result.error is error


def test_s06_detours_nest(chain, trail, about):
    """A detour inside a detour wraps the same rest, and each of the two decides for itself."""
    chain.run(
        when(
            about("orders."), trail("X"), when(about(".created"), trail("Y")), when(about(".changed"), trail("Q")), trail("Z")
        ),
        trail("B"),
    )

    assert trail == ["X in", "Y in", "Z in", "B in", "T", "B out", "Z out", "Y out", "X out"]


def test_s06_several_detours_are_all_taken(chain, trail, about):
    """A message takes every detour that matches, unlike branches, of which it takes the first."""
    chain.run(
        when(about("orders."), trail("X")), when(about(".created"), trail("Y")), when(about("bills."), trail("Q")), trail("B")
    )

    assert trail == ["X in", "Y in", "B in", "T", "B out", "Y out", "X out"]


@pytest.mark.parametrize("subjects", [(ORDERS, BILLS), ("orders.*", "bills.paid"), (">",), ("*.*", "bills.>")], ids=" ".join)
@pytest.mark.parametrize("own", [False, True], ids=["bus-wide", "own"])
@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
def test_s06_a_subscription_to_several_subjects_asks_for_each_message(subjects, own, fork):
    """A filter under a pattern sees exactly the messages that match, also if one subscription gets others too."""
    marked = []

    @transform
    def mark(message):
        return message.with_headers(marked="yes")

    filters = (fork("orders.>", mark),)
    bus = Bus()
    if not own:
        bus.use(*filters, at="delivery")
    bus.subscribe(list(subjects), lambda message: marked.append((message.subject, "marked" in message.headers)),
                  filters=filters if own else ())  # fmt: skip
    with bus:
        bus.publish(ORDERS)
        bus.publish(BILLS)
        bus.drain(timeout=10)

    assert marked == [(ORDERS, True), (BILLS, False)]


# --- alternatives: switch and otherwise --------------------------------------------------------------------------------


def test_a_message_takes_the_first_case_and_comes_back(chain, trail, about):
    """Later cases are not taken although they match, and the rest of the chain follows."""
    result = chain.run(
        trail("A"),
        switch(when(about("bills."), trail("X")), when(about("orders."), trail("Y")), when(about(".created"), trail("Z"))),
        trail("B"),
    )

    assert trail == ["A in", "Y in", "B in", "T", "B out", "Y out", "A out"]
    assert [message.subject for message in result.received] == [ORDERS]


@pytest.mark.parametrize("last", [True, False], ids=["otherwise", "nothing"])
def test_otherwise_is_for_what_no_case_takes(chain, trail, about, last):
    """Without an `otherwise`, such a message goes straight on."""
    cases = [when(about("bills."), trail("X")), when(about(".changed"), trail("Y"))]
    chain.run(switch(*cases, *([otherwise(trail("O"))] if last else [])), trail("B"))

    assert trail == (["O in", "B in", "T", "B out", "O out"] if last else ["B in", "T", "B out"])


def test_predicates_of_cases_are_asked_in_order_until_one_is_true(chain, trail):
    """No predicate behind the case that is taken is called."""
    asked: list[str] = []

    def about(name, answer):
        def predicate(message):
            asked.append(name)
            return answer

        return predicate

    chain.run(
        switch(when(about("a", False), trail("A")), when(about("b", True), trail("B")), when(about("c", True), trail("C")))
    )
    assert asked == ["a", "b"]
    assert trail == ["B in", "T", "B out"]


def test_by_action_otherwise_by_kind(harness):
    """A reroute in each alternative changes the subject once."""
    harness.bus.use(
        switch(
            when(lambda message: "action" in message.body, Reroute("github.{body.kind}.{body.action}")),
            otherwise(Reroute("github.{body.kind}")),
        )
    )
    bus = harness.start()
    inbox = bus.subscribe("github.>", name="inbox")
    bus.publish("raw", {"kind": "issue", "action": "opened"})
    bus.publish("raw", {"kind": "push"})
    assert [inbox.receive(timeout=1.0).subject for _ in range(2)] == ["github.issue.opened", "github.push"]


@table(
    ("make", "says"),
    [
        (lambda f: switch(), "has no when"),
        (lambda f: switch(otherwise(f)), "has no when"),
        (lambda f: switch(f), "case 1 is passing; write when(…, filter), or otherwise(filter)"),
        (lambda f: switch(when("a.>", f), branch("b.>", f)), "case 2 is"),
        (lambda f: switch(otherwise(f), when("a.>", f)), "it takes all, so it comes last"),
        (lambda f: Bus().use(otherwise(f)), "is outside of a switch"),
        (lambda f: Bus().use(Pipeline(when("a.>", otherwise(f)))), "is outside of a switch"),
        (lambda f: Bus().use(switch(when("a.>", f), when("a.b", f))), "comes after when"),
        (
            lambda f: Bus().use(switch(when(">", f), otherwise(f))),
            "takes all of its messages, so it can never run; take it out",
        ),
        (lambda f: Bus().subscribe("b", print, filters=[switch(when("a.>", f))]), "can never run"),
    ],
)
def test_a_switch_that_means_nothing_is_refused(make, says):
    """The error is raised where the mistake is, and names the remedy."""
    with pytest.raises(PipelineError) as error:
        make(passing)
    assert says in str(error.value)


def test_a_switch_shows_in_explain_and_describe():
    """`explain` says which case is taken, and that the others are skipped."""
    bus = Bus()
    bus.use(switch(when("orders.>", passing), when(len, passing), otherwise(passing)))
    bus.use(branch("a", passing))
    orders, other = bus.explain("orders.1").splitlines(), bus.explain("x").splitlines()
    assert [" ".join(line.split()[:-1]) for line in orders[3:7]] == [
        "switch the first case that applies",
        'when("orders.>") taken: orders.1 matches',
        "passing",
        "(when(len), otherwise) skipped: an earlier case was",
    ]
    assert [" ".join(line.split()[:-1]) for line in other[3:9]] == [
        "switch the first case that applies",
        'when("orders.>") not taken: x does not match',
        "when(len) asked for each message",
        "passing",
        "otherwise if no case before it applies",
        "passing",
    ]
    described, _ = bus.describe()["publish"]
    assert described["switch"] is True
    assert [next(iter(case.items())) for case in described["filters"]] == [
        ("when", "orders.>"),
        ("when", {"predicate": "builtins:len"}),
        ("otherwise", True),
    ]


def test_a_switch_of_the_bus_is_one_for_readers_too(about):
    """A subscription that is read by hand gets the Transforms in the same cases."""
    bus = Bus()
    bus.use(
        switch(when(about("orders."), stamp("orders"), passing), otherwise(stamp("other"))),
        at="delivery",
    )
    inbox = bus.subscribe(">")
    with bus:
        bus.publish(ORDERS)
        bus.publish("x")
        assert [inbox.receive(timeout=1.0).headers["stamp"] for _ in range(2)] == ["orders", "other"]


def stamp(name):
    @transform
    def made(message):
        return message.with_headers(stamp=name)

    return made


# --- 7. predicates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
@pytest.mark.parametrize("answer", [True, False])
def test_s07_a_predicate_is_asked_once_for_a_pass_and_not_on_the_way_out(chain, trail, fork, answer):
    """The predicate is called once, because a second answer could differ from the first."""

    def asked(message):
        trail.note("asked")
        return answer

    chain.run(trail("A"), fork(asked, trail("X")))

    inside = ["X in", "T", "X out"] if answer else ["T"]
    assert trail == ["A in", "asked", *inside, "A out"]


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
def test_s07_a_predicate_sees_what_earlier_filters_changed(chain, trail, fork):
    """A predicate sees the changes of the filters before it, and not those of the filters after it."""

    @transform
    def enrich(message):
        return message.with_headers(vip="yes")

    @transform
    def strip(message):
        return message.with_body("stripped")

    seen = []

    def is_vip(message):
        seen.append((message.headers.get("vip"), message.body))
        return "vip" in message.headers

    chain.run(enrich, fork(is_vip, trail("X")), strip, body="as it came")

    assert seen == [("yes", "as it came")]
    assert trail == ["X in", "T", "X out"]


def test_s07_a_predicate_is_asked_again_for_each_pass(chain, step):
    """A filter that calls on twice makes two passes, and the predicate decides for each."""
    answers = [True, False]
    inside = []

    def twice(message):
        yield message
        return (yield message)

    @transform
    def x(message):
        inside.append(message.body)
        return message

    result = chain.run(step(twice), when(lambda message: answers.pop(0), x))

    assert answers == []
    assert inside == [None]
    assert len(result.received) == 2


def test_s07_nested_predicates_are_asked_only_where_the_message_comes_by(chain, trail):
    """The inner predicate is called only if the outer detour is taken."""

    def yes(message):
        trail.note("outer")
        return True

    def no(message):
        trail.note("no")
        return False

    def never(message):
        trail.note("never")
        return True

    chain.run(when(yes, when(no, when(never, trail("X")))), trail("B"))

    assert trail == ["outer", "no", "B in", "T", "B out"]


@pytest.mark.parametrize(("answer", "taken"), [(1, True), ("yes", True), ([], False), (None, False), (0, False)], ids=repr)
def test_s07_any_truth_value_is_an_answer(chain, trail, answer, taken):
    """A predicate may return any value that `if` accepts."""
    chain.run(when(lambda message: answer, trail("X")))

    assert ("X in" in trail) == taken


def test_s07_an_error_in_a_predicate_is_the_fork_s_error(chain, trail):
    """The filters behind it do not run, and the caller gets the same error object."""
    error = KeyError("no such field")

    def picky(message):
        raise error

    result = chain.run(trail("A"), when(picky, trail("X")), trail("B"))

    assert trail == ["A in"]
    assert result.error is error
    assert result.received == []


def test_s07_an_error_in_a_predicate_is_blamed_on_its_fork():
    """The event for observers names the fork whose predicate failed."""

    def picky(message):
        raise KeyError("no such field")

    blamed = []
    bus = Bus()
    bus.use(passing, when(picky, passing))
    bus.observe(lambda event: blamed.append(event.by) if isinstance(event, Refused) else None)
    with bus, pytest.raises(KeyError):
        bus.publish("x")

    assert blamed == ["when(picky)"]


def test_s07_patterns_are_decided_when_a_route_is_compiled():
    """A publish on a known route matches no patterns, so a filter for other subjects costs nothing."""
    asked = []

    def profile(frame, event, argument):
        if event == "call" and frame.f_globals.get("__name__") == "pipebus.message.subject":
            asked.append(frame.f_code.co_name)

    bus = Bus()
    bus.use(when("orders.*", passing), when("bills.>", passing), branch("audit.>", passing), when("*.created", passing))
    with bus:
        bus.publish(ORDERS)
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            bus.publish(ORDERS)
        finally:
            sys.setprofile(before)

    assert asked == []


@pytest.mark.only(side="publish")
def test_s07_behind_a_reroute_patterns_are_decided_for_the_new_subject(chain, trail):
    """After a change of subject, the message meets the filters for the new subject, and none of them twice."""
    result = chain.run(
        when("orders.>", trail("A")), Reroute("bills.paid"), when("orders.>", trail("X")), when("bills.>", trail("B")),
        branch("bills.>", trail("Y")), trail("Z"),
    )  # fmt: skip

    assert trail == ["A in", "B in", "Y in", "T", "Y out", "B out", "A out"]
    assert [message.subject for message in result.received] == [BILLS]


@pytest.mark.parametrize("subject", ["orders.created", Subject[int]("orders.created")], ids=["str", "Subject"])
def test_s07_a_typed_subject_matches_like_its_name(subject):
    """`Subject` is a string wherever a string goes."""
    seen: list[Message[Any]] = []

    @transform
    def look(message):
        seen.append(message)
        return message

    bus = Bus()
    bus.use(when("orders.*", look))
    with bus:
        assert bus.publish(subject, 1) == Receipt(0)

    assert [message.subject for message in seen] == ["orders.created"]
