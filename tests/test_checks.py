"""Which chains are refused when they are built, and that the errors say who, where, and what to do about it."""

import functools
import re

import pytest

from pipebus import (
    Around,
    Bus,
    Call,
    Dropped,
    Pipeline,
    PipelineError,
    SubscriptionError,
    Transform,
    around,
    branch,
    transform,
    when,
)
from pipebus.filters import Log, Reroute, Validate
from tables import table


def sync(message, call_next):
    return call_next(message)


def other_sync(message, call_next):
    return call_next(message)


async def wait(message, call_next):
    return await call_next(message)


@transform
def look(message):
    return message


@around
def wrap(message):
    return (yield message)


def handler(message):
    """A handler that does nothing."""


def some(message):
    return True


class Archive:
    """A filter that never calls the rest of the chain."""

    terminal = True

    def __call__(self, message, call_next):
        return Dropped("archived")


class Pay(Transform):
    """A filter that requires what a Validate in front of it provides."""

    requires = ("validated",)

    def transform(self, message):
        return message


class Ship(Transform):
    """A filter that requires two things, one of them written as a plain string elsewhere."""

    requires = ("validated", "paid")

    def transform(self, message):
        return message


class Charge(Transform):
    """A filter that provides what Ship requires."""

    requires = "validated"
    provides = "paid"

    def transform(self, message):
        return message


class Limit(Around):
    """A filter that bounds the time of the rest."""

    bounds = True

    def around(self, message):
        return (yield Call(message, timeout=5.0))


def refusal(register, error=PipelineError):
    """Return the text of the refusal, and the line of the registration that causes it."""
    bus = Bus()
    with pytest.raises(error) as caught:
        register(bus)
    return str(caught.value), register.__code__.co_firstlineno


def at(position: int, line: int, within: str = "use") -> str:
    return f"(position {position} of {within} at {__file__}:{line})"


# --- a filter that can never run ---------------------------------------------------------------------------------------


@table(
    ("register", "dead", "taker"),
    [
        (lambda bus: bus.use(branch("orders.>", look), when("orders.*", sync)), 'when("orders.*")', 'branch("orders.>")'),
        (
            lambda bus: bus.use(branch("orders.>", look), branch("orders.created")),
            'branch("orders.created")',
            'branch("orders.>")',
        ),
        (lambda bus: bus.use(branch(">", look), when("orders.*", sync)), 'when("orders.*")', 'branch(">")'),
        (lambda bus: bus.use(branch("a.*", look), sync, branch("a.*", look)), 'branch("a.*")', 'branch("a.*")'),
        (lambda bus: bus.use(Pipeline(branch("a.>", look)), when("a.b", sync)), 'when("a.b")', 'branch("a.>")'),
        (lambda bus: bus.use(branch("a.>", look), Pipeline(when("a.b", sync))), 'when("a.b")', 'branch("a.>")'),
        (lambda bus: bus.use(when("a.>", branch("a.>", look)), when("a.b", sync)), 'when("a.b")', 'branch("a.>")'),
        (lambda bus: bus.use(when("*.b", branch("a.*", look)), when("a.b", sync)), 'when("a.b")', 'branch("a.*")'),
    ],
    ids=[
        "narrower when",
        "narrower branch",
        "behind everything",
        "twice",
        "in a pipeline",
        "pipeline behind",
        "in a when",
        "in part",
    ],
)
def test_a_fork_behind_a_branch_that_takes_all_its_messages_is_refused(register, dead, taker):
    """The error names both, says where each of them is written, and says what to do."""
    text, line = refusal(register)
    problem = text.splitlines()[0]

    assert problem.startswith(f"{dead} (")
    assert f"comes after {taker} (" in problem
    assert problem.count(f"{__file__}:{line}") == 2
    assert "takes all of its messages, so it can never run" in problem
    assert f"move it in front of {taker}" in problem


@pytest.mark.parametrize(
    "register",
    [
        lambda bus: bus.use(when("orders.created", branch("orders.*", look), sync)),
        lambda bus: bus.use(when("orders.*", Pipeline(branch("orders.*", look)), sync)),
        lambda bus: bus.use(when("orders.*", when(some, branch("orders.*", look), sync))),
        lambda bus: bus.use(branch("orders.created", branch("*.created", look), sync)),
    ],
    ids=["in a when", "behind a pipeline", "in a predicate", "in a branch"],
)
def test_a_filter_behind_a_branch_that_takes_all_its_messages_is_refused(register):
    """The error names the filter, the branch, and what to do."""
    text, line = refusal(register)

    assert re.match(rf"filter sync \(position \d of \w+ at {re.escape(__file__)}:{line}\) comes after branch\(", text)
    assert "can never run" in text
    assert "move it in front of branch(" in text


@pytest.mark.parametrize(
    "register",
    [
        lambda bus: bus.use(when("orders.>", when("bills.>", sync))),
        lambda bus: bus.use(branch("orders.>", branch("bills.paid", sync))),
        lambda bus: bus.use(when("orders.>", Pipeline(when(some, branch("bills.paid", sync))))),
    ],
    ids=["when", "branch", "deep"],
)
def test_a_fork_that_no_subject_can_take_is_refused(register):
    """A pattern inside another that excludes it is a slip of the pen."""
    text, line = refusal(register)

    assert "bills." in text
    assert 'inside "orders.>"' in text
    assert "can never run" in text
    assert f"{__file__}:{line}" in text
    assert "move it out, or change its pattern" in text


def test_a_subscription_s_own_fork_for_other_subjects_is_refused():
    """Such a filter would be ignored silently, because the subscription never gets such a message."""
    text, line = refusal(lambda bus: bus.subscribe("orders.*", handler, filters=[when("bills.>", look)]))

    assert 'when("bills.>")' in text
    assert "orders.*" in text
    assert "can never run" in text
    assert f"{__file__}:{line}" in text


@table(
    "register",
    [
        lambda bus: bus.use(branch("orders.>", look), sync),
        lambda bus: bus.use(branch("orders.>", look), when("*.created", sync)),
        lambda bus: bus.use(branch("orders.created", look), when("orders.*", sync)),
        lambda bus: bus.use(branch(some, look), sync, branch(some, look)),
        lambda bus: bus.use(when(some, branch("orders.>", look)), when("orders.*", sync)),
        lambda bus: bus.use(when("orders.*", branch("orders.created", look), sync)),
        lambda bus: bus.use(when("a.>", branch("a.b", look)), when("a.c", sync)),
        lambda bus: bus.use(when("orders.>", Reroute("bills.paid"), when("bills.>", sync))),
        lambda bus: bus.use(branch("orders.>", look), when("bills.>", Reroute("orders.x")), when("orders.*", sync)),
        lambda bus: bus.subscribe(["orders.*", "bills.*"], handler, filters=[when("bills.>", look)]),
    ],
    ids=["others pass", "overlap", "narrower first", "predicate", "branch behind a predicate", "part of a when", "other part",
         "rerouted", "rerouted behind a branch", "one of two subjects"],
)  # fmt: skip
def test_only_what_certainly_cannot_run_is_refused(register):
    """A rule speaks only of what it can prove."""
    bus = Bus()
    register(bus)

    with bus:
        assert bus.describe()["publish"] or bus.describe()["subscriptions"]


# --- after a terminal filter -------------------------------------------------------------------------------------------


def test_a_filter_behind_a_terminal_one_is_refused():
    """The error names both filters, says where each of them is written, and says which one to move."""
    text, line = refusal(lambda bus: bus.use(look, Archive(), sync))

    assert text == (f"filter sync {at(3, line)} can never run: Archive {at(2, line)} is terminal; move sync in front of it")


def test_everything_behind_a_terminal_is_told_at_once():
    """The error has a line for each problem of the chain, so that one round is enough to put it right."""
    text, _ = refusal(lambda bus: bus.use(Archive(), sync, when("a", other_sync)))

    assert [line.split(" (")[0] for line in text.splitlines()] == ["filter sync", "filter other_sync"]


# --- order -------------------------------------------------------------------------------------------------------------


def test_two_filters_in_the_wrong_order_are_told_to_swap():
    """The error names the two filters and says to swap them."""
    text, line = refusal(lambda bus: bus.use(look, Pay(), wrap, Validate({"orders.>": dict})))

    assert text == (
        f'filter Pay {at(2, line)} requires "validated", which Validate {at(4, line)} provides only later; swap the two'
    )


def test_what_nobody_provides_is_told_to_be_added():
    """The error names what is needed, and says where to put a filter that provides it."""
    text, line = refusal(lambda bus: bus.use(look, Pay()))

    assert text == f'filter Pay {at(2, line)} requires "validated", which no filter before it provides; add one in front of it'


@table(
    ("register", "missing"),
    [
        (lambda bus: bus.use(Validate({">": dict}), Ship()), ["paid"]),
        (lambda bus: bus.use(Ship()), ["validated", "paid"]),
        (lambda bus: bus.use(Charge()), ["validated"]),
        (lambda bus: bus.use(branch("orders.>", Validate({">": dict})), Pay()), ["validated"]),
        (lambda bus: bus.use(when("orders.>", Validate({">": dict})), when("bills.>", Pay())), ["validated"]),
        (lambda bus: bus.use(Pay(), at="delivery"), ["validated"]),
        (lambda bus: bus.subscribe("orders.*", handler, filters=[Pay()]), ["validated"]),
    ],
    ids=["one of two", "two of two", "a plain string", "left by a branch", "other subjects", "delivery", "own"],
)
def test_a_need_that_cannot_be_met_is_refused(register, missing):
    """The error names each missing thing once, whatever the way to register it."""
    text, line = refusal(register)

    assert [re.search('requires "(.*?)"', problem)[1] for problem in text.splitlines()] == missing
    assert all(f"{__file__}:{line}" in problem for problem in text.splitlines())


def bus_wide_then_own(bus):
    bus.use(Validate({">": dict}), at="delivery")
    bus.subscribe("orders.*", handler, filters=[Pay()])


@table(
    "register",
    [
        lambda bus: bus.use(Validate({">": dict}), Pay()),
        lambda bus: bus.use(Validate({">": dict}), Charge(), look, Ship()),
        lambda bus: bus.use(Pipeline(Validate({">": dict})), when("orders.>", Pay())),
        lambda bus: bus.use(when("orders.>", Validate({">": dict})), when("orders.created", Pay())),
        lambda bus: bus.use(when(some, Validate({">": dict})), Pay()),
        bus_wide_then_own,
    ],
    ids=["in front", "a chain of needs", "in a pipeline", "overlapping patterns", "behind a predicate", "bus-wide and own"],
)
def test_a_need_that_can_be_met_is_fine(register):
    """Only an impossible order is refused."""
    bus = Bus()
    register(bus)

    with bus:
        assert bus.describe()["publish"] or bus.describe()["delivery"]


# --- colours -----------------------------------------------------------------------------------------------------------


def one_then_other(bus):
    bus.use(sync)
    bus.use(wait)


class Method:
    """A class with callables of every form, in both colours."""

    async def acall(self, message, call_next):
        return await call_next(message)

    async def __call__(self, message, call_next):
        return await call_next(message)


@table(
    "register",
    [
        lambda bus: bus.use(sync, wait),
        lambda bus: bus.use(wait, sync),
        lambda bus: bus.use(sync, look, wrap, wait),
        lambda bus: bus.use(Pipeline(sync), Pipeline(Pipeline(wait))),
        lambda bus: bus.use(when("orders.*", sync), when("*.created", wait)),
        lambda bus: bus.use(when("orders.>", sync), when(some, wait)),
        lambda bus: bus.use(when(some, sync), when(lambda message: not some(message), wait)),
        lambda bus: bus.use(sync, branch("orders.>", wait)),
        lambda bus: bus.use(branch("orders.>", sync, branch(some, wait))),
        lambda bus: bus.use(branch(some, look), sync, wait),
        lambda bus: bus.use(branch(some, wait), sync),
        lambda bus: bus.use(when(some, branch("orders.>", wait)), sync),
        lambda bus: bus.use(when("orders.>", sync, Reroute("bills.paid")), when("bills.>", wait)),
        lambda bus: bus.use(sync, functools.partial(wait)),
        lambda bus: bus.use(sync, Method()),
        lambda bus: bus.use(sync, Method().acall),
    ],
    ids=[
        "beside", "behind", "apart", "in pipelines", "overlapping patterns", "pattern and predicate", "two predicates",
        "in front of a branch", "in a branch", "both behind a branch", "a branch by predicate",
        "a branch behind a predicate", "rerouted", "partial", "callable", "bound method",
    ],
)  # fmt: skip
def test_a_plain_sync_filter_that_can_meet_an_async_one_is_refused(register):
    """`use` refuses them; the error names both filters, where they are written, and the two ways out."""
    text, line = refusal(register)

    assert re.match(rf"filter sync \(position \d of \w+ at {re.escape(__file__)}:{line}\) is a plain sync filter", text)
    assert re.search(rf"the async filter \w+ \(position \d of \w+ at {re.escape(__file__)}:{line}\)", text)
    assert text.endswith("make it `async def`, or write it as @transform / @around")


def test_colours_are_compared_across_calls_of_use():
    """The chain is one, however many calls it was made by."""
    text, line = refusal(one_then_other)

    assert f"filter sync {at(1, line + 1)}" in text
    assert f"the async filter wait {at(1, line + 2)}" in text


@table(
    "register",
    [
        lambda bus: bus.use(look, wrap, wait),
        lambda bus: bus.use(look, wrap, sync),
        lambda bus: bus.use(when("orders.>", sync), when("bills.>", wait)),
        lambda bus: bus.use(branch("orders.>", sync), wait),
        lambda bus: bus.use(branch("orders.>", sync), branch(some, wait), look),
        lambda bus: bus.use(when("orders.>", branch("orders.created", sync), wait)),
        lambda bus: (bus.use(sync), bus.use(look, at="delivery")),
    ],
    ids=["async", "sync", "disjoint patterns", "a branch and what follows", "two branches",
         "a branch in a when", "other side"],
)  # fmt: skip
def test_filters_that_never_meet_may_have_both_colours(register):
    """Each path through the bus has one colour; two paths may have different ones."""
    bus = Bus()
    register(bus)

    with bus:
        assert bus.publish("c.d").mailboxes == 0


def use_then_subscribe(bus):
    bus.use(wait, at="delivery")
    bus.subscribe("orders.*", handler)


def subscribe_then_use(bus):
    bus.subscribe("orders.*", handler)
    bus.use(wait, at="delivery")


def own_filter(bus):
    bus.subscribe("orders.*", handler, filters=[wait])


@pytest.mark.parametrize(
    ("register", "within", "offset"),
    [(use_then_subscribe, "use", 1), (subscribe_then_use, "use", 2), (own_filter, "filters of handler", 1)],
    ids=["use first", "subscribe first", "own"],
)
def test_an_async_filter_around_a_sync_handler_is_refused(register, within, offset):
    """The handler gives its delivery chain the colour; the error names both, and the ways out."""
    text, line = refusal(register)

    assert text.startswith(f"filter wait {at(1, line + offset, within)} is async, but handler handler is sync")
    assert "@transform" in text
    assert "@around" in text


@pytest.mark.parametrize(
    "register",
    [lambda bus: bus.use(sync, Limit()), lambda bus: bus.subscribe("x", handler, filters=[Limit()])],
    ids=["publish", "delivery"],
)
def test_a_time_limit_in_a_sync_chain_is_refused_unless_it_may_abandon(register):
    """
    The rest of a sync chain cannot be cancelled, so the filter must say that it may abandon it; `start` checks at the latest.
    """
    text, _ = refusal(lambda bus: (register(bus), bus.start()))

    assert text.startswith("filter Limit (position ")
    assert f"{__file__}:{register.__code__.co_firstlineno})" in text
    assert "abandon=True" in text


# --- the rest ----------------------------------------------------------------------------------------------------------


@table("filter", [Log, Validate, Pay, Limit, Archive], ids=lambda f: f.__name__)
def test_a_class_instead_of_an_instance_is_refused(filter):
    """This is the commonest slip of all, and the remedy is two characters."""
    text, line = refusal(lambda bus: bus.use(sync, filter))

    assert text == f"filter {filter.__name__} {at(2, line)} is a class, not an instance; write {filter.__name__}()"


def two_of_one_name(bus):
    bus.subscribe("orders.*", handler, name="billing")
    bus.subscribe("bills.*", handler, name="billing")


def test_two_subscriptions_of_one_name_are_refused():
    """A name is the durable identity, so the error says where the first subscription is."""
    text, line = refusal(two_of_one_name, SubscriptionError)

    assert text == (
        f'subscription "billing" (at {__file__}:{line + 2}) exists already (at {__file__}:{line + 1}); choose another name'
    )


def test_a_name_is_free_again_after_its_subscription_has_ended():
    """Unsubscribing makes the name available again."""
    with Bus() as bus:
        bus.subscribe("orders.*", handler, name="billing").unsubscribe()
        bus.subscribe("bills.*", handler, name="billing")

        assert bus.publish("bills.paid").mailboxes == 1


@pytest.mark.parametrize(
    "register",
    [
        lambda bus: bus.use(Reroute("bills.paid"), at="delivery"),
        lambda bus: bus.subscribe("x", handler, filters=[Reroute("bills.paid")]),
    ],
    ids=["bus-wide", "own"],
)
def test_a_filter_that_changes_subjects_is_refused_around_a_handler(register):
    """A delivery has already arrived, so the remedy is to publish the message again."""
    text, line = refusal(register)

    assert text.startswith("filter Reroute (position 1 of ")
    assert f"at {__file__}:{line}) changes subjects, which only a publish filter may" in text
    assert "publish the message again" in text


@pytest.mark.parametrize(
    "register",
    [
        lambda bus: bus.use(Pipeline(look, on_error="reject"), at="delivery"),
        lambda bus: bus.subscribe("x", handler, filters=Pipeline(look, on_error="reject")),
    ],
    ids=["bus-wide", "own"],
)
def test_rejecting_is_refused_around_a_handler(register):
    """Nobody waits for a delivery, so nobody could receive the error."""
    text, line = refusal(register)

    assert text == (
        f'Pipeline (at {__file__}:{line}) has on_error="reject", but nobody waits for a delivery; '
        'it is "dead_letter" (the default) or "drop" there'
    )


def test_an_unknown_on_error_is_refused():
    """A rule called "continue" does not exist, and the error lists those that do."""
    with pytest.raises(PipelineError, match='on_error=\'continue\'; it is "reject", "dead_letter" or "drop"'):
        Pipeline(look, on_error="continue")


@table(
    ("make", "text"),
    [
        (lambda: when("orders..created", look), r'when at .*: "orders..created" has an empty token at position 2'),
        (lambda: branch(">.orders", look), r'branch at .*: ">.orders" has ">" at position 1'),
        (lambda: when(42, look), r'when at .*: 42 is neither a pattern nor a predicate; write when\("orders.>", …\)'),
        (lambda: branch(look.__class__, look), r"branch at .*is neither a pattern nor a predicate"),
        (lambda: when(wait, look), r"when at .*: predicate wait is async; a predicate is a plain function"),
    ],
    ids=["bad pattern", "bad wildcard", "a number", "a class", "an async predicate"],
)
def test_a_fork_without_a_usable_question_is_refused(make, text):
    """The error says what was found, and shows the two forms that work."""
    with pytest.raises(PipelineError, match=text) as caught:
        make()

    assert f"{__file__}:{make.__code__.co_firstlineno}" in str(caught.value)


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
def test_a_predicate_with_the_wrong_parameters_is_refused(fork):
    """A predicate is called with only the message, and the first message would be too late to find out that it cannot be."""
    with pytest.raises(PipelineError, match="predicate sync"):
        fork(sync, look)


def test_start_looks_at_the_chains_once_more():
    """Registrations may come in any order; `start` refuses what is wrong together."""
    bus = Bus()
    bus.subscribe("orders.*", handler, filters=[look])
    bus.use(wrap, at="delivery")

    with bus:
        bus.publish("orders.created")
        bus.drain(timeout=10)

    assert len(bus.dead_letters) == 0
