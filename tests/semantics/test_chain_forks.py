"""Forks in the chain, lines 5 to 7: branches, detours, and the questions that decide them."""

import sys
from typing import Any

import pytest

from pipebus import Bus, Dropped, Message, Pipeline, Receipt, Subject, around, branch, transform, when
from pipebus.events import Refused
from pipebus.filters import Reroute

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
    """A road of its own: in front of it everything as usual, behind it nothing but the mailboxes or the handler."""
    result = chain.run(trail("A"), branch(about("orders."), trail("X"), trail("Y")), trail("B"))

    assert trail == ["A in", "X in", "Y in", "T", "Y out", "X out", "A out"]
    assert [message.subject for message in result.received] == [ORDERS]


def test_s05_a_branch_that_does_not_match_is_as_if_it_were_absent(chain, trail, about):
    """Messages that it is not for go their usual way."""
    result = chain.run(trail("A"), branch(about("bills."), trail("X")), trail("B"))

    assert trail == ["A in", "B in", "T", "B out", "A out"]
    assert [message.subject for message in result.received] == [ORDERS]


def test_s05_the_first_branch_that_matches_wins(chain, trail, about):
    """Later branches are later filters: a message that has left does not meet them."""
    chain.run(branch(about("bills."), trail("X")), branch(about("orders."), trail("Y")), branch(about(".created"), trail("Z")))

    assert trail == ["Y in", "T", "Y out"]


def test_s05_an_empty_branch_goes_straight_to_the_end(chain, trail, about):
    """A way to let some messages off the rest of the chain."""
    result = chain.run(trail("A"), branch(about("orders.")), trail("B"))

    assert trail == ["A in", "T", "A out"]
    assert len(result.received) == 1


@pytest.mark.parametrize(
    "container",
    [lambda node: when("*.created", node), lambda node: when(lambda message: True, node), Pipeline],
    ids=["when by pattern", "when by predicate", "pipeline"],
)
def test_s05_a_branch_leaves_the_whole_chain_from_wherever_it_stands(chain, trail, about, container):
    """Inside a detour or a Pipeline too: what follows the container is skipped as well."""
    chain.run(trail("A"), container(Pipeline(branch(about("orders."), trail("X")), trail("B"))), trail("C"))

    assert trail == ["A in", "X in", "T", "X out", "A out"]


def test_s05_a_branch_inside_a_branch_leaves_that_one_too(chain, trail, about):
    """Nested branches: the inner road skips what was left of the outer one."""
    chain.run(branch(about("orders."), trail("X"), branch(about(".created"), trail("Y")), trail("Z")), trail("B"))

    assert trail == ["X in", "Y in", "T", "Y out", "X out"]


def test_s05_an_inner_branch_that_does_not_match_goes_on_along_the_outer_one(chain, trail, about):
    """Nested branches: absent where it does not match, and the outer branch is still a branch."""
    chain.run(branch(about("orders."), trail("X"), branch(about(".changed"), trail("Y")), trail("Z")), trail("B"))

    assert trail == ["X in", "Z in", "T", "Z out", "X out"]


def test_s05_a_drop_inside_a_branch_ends_the_message(chain, step, trail, about):
    """A branch is a chain like any other: its filters may drop, and the ones in front see it."""

    def x(message):
        return Dropped("not here")
        yield

    result = chain.run(trail("A"), branch(about("orders."), step(x)), trail("B"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.received) == (Dropped("not here", by="x"), [])


@pytest.mark.parametrize("wild", [False, True], ids=["literal", "wildcard"])
def test_s05_a_branch_of_the_bus_ends_the_bus_s_part_only(about, wild):
    """The subscription's own filters still run: what it asked for around its handler is not the bus's to skip."""
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
    """A reader gets only the Transforms of the bus's chain, but from the same road: what a branch skips, it skips."""

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
    """Detour in, the rest, detour out, outer out."""
    chain.run(trail("A"), when(about("orders."), trail("X"), trail("Y")), trail("B"))

    assert trail == ["A in", "X in", "Y in", "B in", "T", "B out", "Y out", "X out", "A out"]


def test_s06_a_detour_that_does_not_match_is_as_if_it_were_absent(chain, trail, about):
    """Messages that it is not for go their usual way."""
    chain.run(trail("A"), when(about("bills."), trail("X")), trail("B"))

    assert trail == ["A in", "B in", "T", "B out", "A out"]


def test_s06_a_detour_filter_that_ends_the_message_ends_the_rest_too(chain, step, trail, about):
    """It rejoins by calling on; if it does not, there is nothing behind it."""

    def x(message):
        return Dropped("not here")
        yield

    result = chain.run(trail("A"), when(about("orders."), step(x)), trail("B"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.received) == (Dropped("not here", by="x"), [])


def test_s06_an_error_in_a_detour_unwinds_through_the_outer_filters(chain, step, trail, about):
    """The same object, whichever road it arose on."""
    error = ValueError("in the detour")

    def x(message):
        raise error
        yield

    result = chain.run(trail("A"), when(about("orders."), step(x)), trail("B"))

    assert trail == ["A in"]
    assert result.error is error


def test_s06_detours_nest(chain, trail, about):
    """A detour inside a detour wraps the same rest, and each is taken or not for itself."""
    chain.run(
        when(
            about("orders."), trail("X"), when(about(".created"), trail("Y")), when(about(".changed"), trail("Q")), trail("Z")
        ),
        trail("B"),
    )

    assert trail == ["X in", "Y in", "Z in", "B in", "T", "B out", "Z out", "Y out", "X out"]


def test_s06_several_detours_are_all_taken(chain, trail, about):
    """Unlike branches, one detour does not end the search for others."""
    chain.run(
        when(about("orders."), trail("X")), when(about(".created"), trail("Y")), when(about("bills."), trail("Q")), trail("B")
    )

    assert trail == ["X in", "Y in", "B in", "T", "B out", "Y out", "X out"]


@pytest.mark.parametrize("subjects", [(ORDERS, BILLS), ("orders.*", "bills.paid"), (">",), ("*.*", "bills.>")], ids=" ".join)
@pytest.mark.parametrize("own", [False, True], ids=["bus-wide", "own"])
@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
def test_s06_a_subscription_to_several_subjects_asks_for_each_message(subjects, own, fork):
    """A filter for some subjects sees exactly the messages of those, also where one subscription gets others too."""
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


# --- 7. predicates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
@pytest.mark.parametrize("answer", [True, False])
def test_s07_a_predicate_is_asked_once_for_a_pass_and_not_on_the_way_out(chain, trail, fork, answer):
    """Asking costs, and an answer that changed half-way would be half a detour."""

    def asked(message):
        trail.note("asked")
        return answer

    chain.run(trail("A"), fork(asked, trail("X")))

    inside = ["X in", "T", "X out"] if answer else ["T"]
    assert trail == ["A in", "asked", *inside, "A out"]


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
def test_s07_a_predicate_sees_what_earlier_filters_changed(chain, trail, fork):
    """It stands at its own place in the chain: what was done in front of it counts, what comes behind does not."""

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
    """A filter that calls on twice makes two passes, and each decides for itself."""
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
    """The inner question is asked inside the outer detour, and only there."""

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
    """A predicate may return what `if` understands."""
    chain.run(when(lambda message: answer, trail("X")))

    assert ("X in" in trail) == taken


def test_s07_an_error_in_a_predicate_is_the_fork_s_error(chain, trail):
    """It unwinds like a filter's: nothing behind it runs, and the same object comes out."""
    error = KeyError("no such field")

    def picky(message):
        raise error

    result = chain.run(trail("A"), when(picky, trail("X")), trail("B"))

    assert trail == ["A in"]
    assert result.error is error
    assert result.received == []


def test_s07_an_error_in_a_predicate_is_blamed_on_its_fork():
    """Observers hear which question failed."""

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
    """A warm publish asks no pattern: a filter for other subjects costs nothing."""
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
    """What follows a change of subject is what was registered for the new one; nothing runs twice."""
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
