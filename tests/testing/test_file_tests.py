"""`[[tests]]` of config files, run: by `file_tests`, and by pytest as one item each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pipebus import ConfigError, Dropped, Message, Rejected, transform
from pipebus.filters import Dedupe
from pipebus.testing import FileTest, file_tests
from pipebus.testing.files.file_tests import Result

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[2] / "examples"

SHOP = """
[filters.once]
use = "dedupe"

[filters.scales]
use = "drop"
when = { expr = "headers.weight == '0'" }
reason = "too light"

[[subscriptions]]
name = "till"
subject = "orders.*"
handler = "till"

[[subscriptions]]
name = "depot"
subject = "orders.placed"
handler = "depot"
filters = [{ use = "drop", when = { expr = "body == 'gift card'" }, reason = "nothing to ship" }]

[[pipelines]]
match = "orders.>"
filters = ["once", "scales"]
"""
"""A file that most of these tests begin with; its first test begins at line 27."""

PLACED = 'publish = { subject = "orders.placed", json = "tea" }'


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FileTest]]:
    """The tests of "pipebus.toml" in the working directory; handlers that it names, and that are not handed in, do nothing."""
    monkeypatch.chdir(tmp_path)

    def found(text: str, **options: Any) -> list[FileTest]:
        Path("pipebus.toml").write_text(f"version = 1\n{dedent(text)}", encoding="utf-8")
        handlers = {"till": lambda message: None, "depot": lambda message: None} | options.pop("handlers", {})
        return file_tests("pipebus.toml", handlers=handlers, **options)

    return found


@pytest.fixture
def run(cases: Callable[..., list[FileTest]]) -> Callable[..., Result]:
    """Run the only test of a shop: what it says below its name."""

    def result(test: str, shop: str = SHOP, **options: Any) -> Result:
        (one,) = cases(f'{dedent(shop)}\n[[tests]]\nname = "it"\n{dedent(test)}', **options)
        return one.run()

    return result


Cases = Callable[..., list[FileTest]]
Run = Callable[..., Result]


def told(result: Result) -> list[str]:
    """The differences without their place, which is in this file's test; each is one line."""
    assert all("\n" not in one for one in result.differences)
    assert all(one.startswith("pipebus.toml:") for one in result.differences)
    return [one.partition(": ")[2] for one in result.differences]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Path]:
    """A folder for modules, which are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# --- the files of the examples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "allow"), [("webhooks", ["webhooks"]), ("flights", ["flights", "pipebus.demo"])])
def test_the_examples_pass(folder: str, allow: list[str], world: Path) -> None:
    """All tests of the examples pass, and each can run again."""
    found = file_tests(EXAMPLES / folder / "pipebus.toml", allow_imports=allow)
    assert len(found) >= 4
    for test in (*found, *found):
        result = test.run()
        assert result.passed, result


# --- outcomes --------------------------------------------------------------------------------------------------------------

OUTCOMES = {
    "accepted": PLACED,
    "dropped": 'publish = { subject = "orders.placed", headers = { weight = "0" } }',
    "rejected": f'replace.filters.scales = {{ rejects = "no" }}\n{PLACED}',
    "unrouted": 'publish = { subject = "orders.placed.late" }',
    "failed": f'replace.filters.scales = {{ raises = "no" }}\n{PLACED}',
}


@pytest.mark.parametrize("expected", OUTCOMES)
@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.few(8)
def test_an_outcome_is_what_became_of_the_publish(run: Run, outcome: str, expected: str) -> None:
    """The result distinguishes each outcome from every other."""
    result = run(f'{OUTCOMES[outcome]}\nexpect = {{ outcome = "{expected}" }}')
    assert result.passed == (outcome == expected)
    if outcome != expected:
        (difference,) = told(result)
        assert difference.startswith(f'outcome: expected "{expected}", found "{outcome}"')


def test_a_list_of_outcomes_is_one_for_each_publish(run: Run) -> None:
    """The outcomes are in the order of the publishes, and a difference says which one it is."""
    publishes = """
    publish = [
        { subject = "orders.placed", id = "1" },
        { subject = "orders.placed", id = "1" },
        { subject = "orders.placed", id = "2" },
    ]
    """
    assert run(f'{dedent(publishes)}expect = {{ outcome = ["accepted", "dropped", "accepted"] }}').passed
    result = run(f'{dedent(publishes)}expect = {{ outcome = ["accepted", "accepted", "dropped"] }}')
    assert told(result) == [
        'outcome[1]: expected "accepted", found "dropped" (by once: duplicate)',
        'outcome[2]: expected "dropped", found "accepted"',
    ]
    result = run(f'{dedent(publishes)}expect = {{ outcome = "accepted" }}')
    assert told(result) == ['outcome[1]: expected "accepted", found "dropped" (by once: duplicate)']


def test_a_full_mailbox_fails_a_publish(run: Run) -> None:
    """The publish fails as the mailbox's rule says, and the reason names the mailbox."""
    shop = SHOP.replace('handler = "till"', 'handler = "till"\nmailbox = { size = 1, overflow = "reject" }')
    publishes = 'publish = [{ subject = "orders.late" }, { subject = "orders.late" }]'
    assert run(
        f'{publishes}\nexpect = {{ outcome = ["accepted", "failed"], reason = {{ contains = "mailbox of till" }} }}', shop
    ).passed


def test_who_waits_for_room_has_it_as_messages_are_handled(run: Run) -> None:
    """A publish that blocks lets the handlers run."""
    shop = SHOP.replace('handler = "till"', 'handler = "till"\nmailbox = 1')
    publishes = "publish = [" + '{ subject = "orders.late" },' * 5 + "]"
    assert run(f'{publishes}\nexpect = {{ outcome = "accepted", deliveries = 5 }}', shop).passed


# --- by and reason ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("test", "by", "reason"),
    [
        pytest.param(OUTCOMES["dropped"], "scales", "too light", id="dropped"),
        pytest.param(OUTCOMES["rejected"], "scales", "no", id="rejected"),
        pytest.param(OUTCOMES["failed"], "scales", "InjectedError: no", id="failed"),
        pytest.param(
            'publish = { subject = "orders.placed", json = "gift card" }', "drop", "nothing to ship", id="at a handler"
        ),
    ],
)
def test_by_and_reason_tell_who_ended_a_message_and_why(run: Run, test: str, by: str, reason: str) -> None:
    """The message may end where it was published, or at a subscription."""
    assert run(f'{test}\nexpect = {{ by = "{by}", reason = "{reason}" }}').passed
    other = "once" if by != "once" else "scales"
    assert told(run(f'{test}\nexpect = {{ by = "{other}" }}')) == [f'by: expected "{other}", found "{_name(by)}"']
    result = run(f'{test}\nexpect = {{ reason = "another" }}')
    assert told(result) == [f'reason: expected "another", found "{reason}"']
    result = run(f'{test}\nexpect = {{ reason = {{ matches = "^another" }} }}')
    assert told(result) == [f'reason: expected text that matches "^another", found "{reason}"']


def _name(by: str) -> str:
    return "Drop" if by == "drop" else by


def test_if_nobody_has_ended_anything_it_says_so(run: Run) -> None:
    """The difference says "nobody" and "nothing"."""
    result = run(f'{PLACED}\nexpect = {{ by = "once", reason = "duplicate" }}')
    assert told(result) == ['by: expected "once", found nobody', 'reason: expected "duplicate", found nothing']


def test_a_reason_goes_with_its_filter(run: Run) -> None:
    """The reasons of other filters do not count when the test gives `by`."""
    test = """
    publish = [
        { subject = "orders.placed", headers = { weight = "0" } },
        { subject = "orders.placed", json = "gift card" },
    ]
    """
    assert run(f'{dedent(test)}expect = {{ by = "scales", reason = "too light" }}').passed
    result = run(f'{dedent(test)}expect = {{ by = "scales", reason = "nothing to ship" }}')
    assert told(result) == ['reason: expected "nothing to ship", found "too light"']


# --- deliveries and dead letters -------------------------------------------------------------------------------------------


def test_deliveries_are_counted_in_all_or_by_subscription(run: Run) -> None:
    """A delivery is a message that a handler was given."""
    publishes = 'publish = [{ subject = "orders.placed" }, { subject = "orders.late" }]\n'
    assert run(f"{publishes}expect = {{ deliveries = 3 }}").passed
    assert run(f"{publishes}expect = {{ deliveries = {{ till = 2 }} }}").passed
    assert run(f"{publishes}expect = {{ deliveries = {{ till = 2, depot = 1 }} }}").passed
    result = run(f"{publishes}expect = {{ deliveries = 2 }}")
    assert told(result) == ["deliveries: expected 2, found 3 (till 2, depot 1)"]
    result = run(f"{publishes}expect = {{ deliveries = {{ till = 1, depot = 0 }} }}")
    assert told(result) == ["deliveries.till: expected 1, found 2", "deliveries.depot: expected 0, found 1"]


def test_none_is_a_number_of_deliveries(run: Run) -> None:
    """An expectation of none passes, and a difference names no subscription where there was no delivery."""
    test = 'publish = { subject = "orders.placed", headers = { weight = "0" } }\n'
    assert run(f"{test}expect = {{ deliveries = 0 }}").passed
    assert told(run(f"{test}expect = {{ deliveries = 1 }}")) == ["deliveries: expected 1, found 0"]


def test_dead_letters_are_counted_in_all_or_by_subscription(run: Run) -> None:
    """A dead letter does not count as a delivery."""
    test = f'{PLACED}\nreplace.handlers.till = {{ raises = "KeyError: tea" }}\n'
    assert run(f"{test}expect = {{ dead = 1, deliveries = 1 }}").passed
    assert run(f"{test}expect = {{ dead = {{ till = 1, depot = 0 }}, deliveries = {{ till = 0, depot = 1 }} }}").passed
    assert told(run(f"{test}expect = {{ dead = 0 }}")) == ["dead: expected 0, found 1 (till 1); till: KeyError: 'tea'"]
    assert told(run(f"{test}expect = {{ dead = {{ depot = 1 }} }}")) == ["dead.depot: expected 1, found 0"]


def test_a_letter_of_a_publish_chain_is_told_by_that_name(run: Run) -> None:
    """The name is `publish`, as in the letters themselves, and the outcome is a drop."""
    shop = SHOP.replace('match = "orders.>"', 'match = "orders.>"\non_error = "dead_letter"')
    test = f'{PLACED}\nreplace.filters.scales = {{ raises = "ValueError: x" }}\n'
    expected = 'outcome = "dropped", by = "scales", dead = { publish = 1, till = 0 }, error = "ValueError: x"'
    assert run(f"{test}expect = {{ {expected} }}", shop).passed
    assert told(run(f"{test}expect = {{ dead = {{ publish = 2 }} }}", shop)) == [
        "dead.publish: expected 2, found 1; ValueError: x"
    ]


@pytest.mark.parametrize(
    ("expected", "differs"),
    [
        ("\"KeyError: 'tea'\"", None),
        ('{ contains = "tea" }', None),
        ('{ matches = "^KeyError" }', None),
        ('"tea"', 'error: expected "tea", found "KeyError: \'tea\'"'),
        ('{ contains = "milk" }', 'error: expected text with "milk", found "KeyError: \'tea\'"'),
        ('{ matches = "^tea" }', 'error: expected text that matches "^tea", found "KeyError: \'tea\'"'),
    ],
)
def test_error_is_the_text_of_a_dead_letter(run: Run, expected: str, differs: str | None) -> None:
    """The text is the error's type and message."""
    result = run(f'{PLACED}\nreplace.handlers.till = {{ raises = "KeyError: tea" }}\nexpect = {{ error = {expected} }}')
    assert told(result) == ([differs] if differs else [])


def test_without_a_dead_letter_there_is_no_error(run: Run) -> None:
    """An expected error that does not come is a difference."""
    assert told(run(f'{PLACED}\nexpect = {{ error = "x" }}')) == ['error: expected "x", found nothing']


def test_a_message_that_dies_unexpectedly_fails_the_test(run: Run) -> None:
    """The test fails whatever else it expects, and the line says what to write if the death is right."""

    def breaks(message: Message) -> None:
        raise ValueError("the till\nis shut")

    result = run(f'{PLACED}\nexpect = {{ outcome = "accepted" }}', handlers={"till": breaks})
    assert told(result) == ["a message died in till: ValueError: the till is shut (if that is expected: dead = 1)"]
    assert run(f"{PLACED}\nexpect = {{ dead = 1 }}", handlers={"till": breaks}).passed


def test_what_kills_no_message_fails_the_test_too(run: Run) -> None:
    """A handler that would end the program fails the test."""

    def leaves(message: Message) -> None:
        sys.exit(3)

    result = run(f'{PLACED}\nexpect = {{ outcome = "accepted" }}', handlers={"till": leaves})
    assert not result.passed
    assert any("SystemExit" in one for one in told(result))


# --- what was received -----------------------------------------------------------------------------------------------------

BODY = """
[tests.publish]
subject = "orders.placed"
id = "o1"
key = "ada"
headers = { via = "web" }
[tests.publish.json]
sku = "tea"
n = 2
paid = true
card = { number = "42" }
lines = [{ sku = "tea", n = 1 }, { sku = "milk", n = 1.5 }]
[tests.expect]
"""


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param('subject = "orders.placed"', id="subject"),
        pytest.param('subject = { matches = "placed$" }', id="subject, matches"),
        pytest.param('key = "ada", id = "o1", headers = { via = "web" }', id="the envelope"),
        pytest.param('key = { contains = "d" }, id = { matches = "^o[0-9]$" }', id="the envelope, by matchers"),
        pytest.param('headers = { contains = { via = { matches = "^w" } } }', id="a header, by a matcher"),
        pytest.param('headers = { absent = ["other"] }', id="no such header"),
        pytest.param("body = { contains = { n = 2, paid = true } }", id="some keys"),
        pytest.param('body = { contains = { card = { contains = { number = "42" } } } }', id="nested"),
        pytest.param('body = { contains = { card = { number = "42" } } }', id="plain data, nested"),
        pytest.param('body = { contains = { lines = { contains = [{ sku = "tea", n = 1 }] } } }', id="a list with one"),
        pytest.param('body = { contains = { lines = { contains = [{ contains = { sku = "milk" } }] } } }', id="as it is deep"),
        pytest.param('body = { absent = ["card.code", "discount"] }', id="no such keys"),
        pytest.param("body = { contains = { discount = { absent = true } } }", id="absent"),
        pytest.param('body = { contains = { sku = "tea" }, absent = ["discount"] }', id="two matchers"),
        pytest.param("body = { contains = { n = { equals = 2.0 } } }", id="numbers are numbers"),
        pytest.param(
            'body = { sku = "tea", n = 2, paid = true, card = { number = "42" }, '
            'lines = [{ sku = "tea", n = 1 }, { sku = "milk", n = 1.5 }] }',
            id="all of it",
        ),
    ],
)
@pytest.mark.few(8)
def test_what_was_received_is_as_expected(run: Run, expected: str) -> None:
    """An expectation may be plain data, which must be equal, or a matcher."""
    assert told(run(f"{BODY}received.till = {{ {expected} }}")) == []
    assert told(run(f"{BODY}received.till = [{{ {expected} }}]")) == []


@pytest.mark.parametrize(
    ("expected", "differences"),
    [
        ('subject = "orders.paid"', ['subject: expected "orders.paid", found "orders.placed"']),
        ('key = "bob"', ['key: expected "bob", found "ada"']),
        ("key = { absent = true }", ['key: expected nothing, found "ada"']),
        ('id = { matches = "x" }', ['id: expected text that matches "x", found "o1"']),
        (
            'headers = { to = "x" }',
            ['headers.to: expected "x", found nothing', 'headers.via: expected nothing, found "web"'],
        ),
        ('headers = { absent = ["via"] }', ['headers.via: expected nothing, found "web"']),
        ("body = { contains = { n = 3 } }", ["body.n: expected 3, found 2"]),
        ('body = { contains = { n = "2" } }', ['body.n: expected "2", found 2']),
        ("body = { contains = { paid = 1 } }", ["body.paid: expected 1, found true"]),
        ("body = { contains = { n = true } }", ["body.n: expected true, found 2"]),
        ('body = { contains = { sku = { contains = "x" } } }', ['body.sku: expected text with "x", found "tea"']),
        ('body = { contains = { n = { contains = "x" } } }', ['body.n: expected text that contains "x", found 2']),
        ('body = { contains = { n = { matches = "2" } } }', ['body.n: expected text that matches "2", found 2']),
        ("body = { contains = { discount = 5 } }", ["body.discount: expected 5, found nothing"]),
        ("body = { absent = true }", ["body: expected nothing, found {"]),
        (
            'body = { absent = ["card.number", "n"] }',
            ['body.card.number: expected nothing, found "42"', "body.n: expected nothing, found 2"],
        ),
        (
            'body = { contains = { card = { number = "43", code = "1" } } }',
            ['body.card.number: expected "43", found "42"', 'body.card.code: expected "1", found nothing'],
        ),
        (
            'body = { contains = { lines = [{ sku = "tea", n = 1 }, { sku = "milk", n = 2 }] } }',
            ["body.lines[1].n: expected 2, found 1.5"],
        ),
        (
            'body = { contains = { lines = [{ sku = "tea", n = 1 }] } }',
            ['body.lines[1]: expected nothing, found { sku = "milk", n = 1.5 }'],
        ),
        (
            "body = { contains = { lines = { contains = [{ contains = { n = 7 } }] } } }",
            ["body.lines: expected a list with { contains = { n = 7 } }, found [{"],
        ),
        (
            'body = { contains = { sku = { contains = ["x"] } } }',
            ['body.sku: expected a list that contains ["x"], found "tea"'],
        ),
        (
            "body = { contains = { sku = { contains = { a = 1 } } } }",
            ['body.sku: expected a table that contains { a = 1 }, found "tea"'],
        ),
        ('key = "bob", subject = "x"', ['subject: expected "x", found', 'key: expected "bob", found "ada"']),
    ],
)
@pytest.mark.few(8)
def test_each_difference_names_what_was_expected_and_what_was_found(run: Run, expected: str, differences: list[str]) -> None:
    """Each difference stands alone and gives its place in the message."""
    found = told(run(f"{BODY}received.till = {{ {expected} }}"))
    assert len(found) == len(differences)
    for one, start in zip(found, differences, strict=True):
        assert one.startswith(f"received.till.{start}")


def test_of_many_messages_it_says_which(run: Run) -> None:
    """The messages are compared in the order in which they were handled, each with its own expectation."""
    publishes = 'publish = [{ subject = "orders.a", json = 1 }, { subject = "orders.b", json = 2 }]\n'
    assert run(f"{publishes}expect = {{ received.till = [{{ body = 1 }}, {{ body = 2 }}] }}").passed
    result = run(f"{publishes}expect = {{ received.till = [{{ body = 2 }}, {{ body = 2 }}] }}")
    assert told(result) == ["received.till[0].body: expected 2, found 1"]


def test_another_number_of_messages_shows_those_that_came(run: Run) -> None:
    """The difference shows the first five in one line."""
    publishes = ", ".join(f'{{ subject = "orders.{n}", json = {n} }}' for n in range(7))
    result = run(f"publish = [{publishes}]\nexpect = {{ received.till = {{ body = 1 }} }}")
    (difference,) = told(result)
    assert difference.startswith("received.till: expected 1 message, found 7")
    assert "orders.4" in difference
    assert "orders.5" not in difference
    assert "…" in difference
    result = run(f"{PLACED}\nexpect = {{ received.till = [] }}")
    assert told(result)[0].startswith("received.till: expected 0 messages, found 1")
    result = run('publish = { subject = "x" }\nexpect = { received.till = [{ body = 1 }, { body = 2 }] }')
    assert told(result) == ["received.till: expected 2 messages, found 0"]


def test_long_texts_that_begin_alike_show_where_they_differ(run: Run) -> None:
    """The texts would look the same if both were cut at the same place."""
    start = "a very long beginning that is the same, " * 3
    result = run(
        f'publish = {{ subject = "orders.a", json = "{start}tea" }}\nexpect = {{ received.till = {{ body = "{start}milk" }} }}'
    )
    (difference,) = told(result)
    assert "tea" in difference
    assert "milk" in difference
    assert len(difference) < 250


def test_a_body_that_is_no_data_equals_none(run: Run) -> None:
    """A filter may make objects: the difference shows what was found, and nothing breaks."""

    class Parcel:
        def __repr__(self) -> str:
            return "<a parcel>"

    late = 'publish = { subject = "orders.late" }'
    wrap = transform(lambda message: message.with_body(Parcel()))
    shop = SHOP.replace('"scales"]', '"scales", "wrap"]')
    result = run(f"{late}\nexpect = {{ received.till = {{ body = 1 }} }}", shop, filters={"wrap": wrap})
    assert told(result) == ["received.till.body: expected 1, found <a parcel>"]
    result = run(f"{late}\nexpect = {{ received.till = [] }}", shop, filters={"wrap": wrap})
    assert not result.passed


def test_received_is_what_the_handler_was_given(run: Run) -> None:
    """A handler that changes the body afterwards does not change what was received."""

    def spoils(message: Message) -> None:
        message.body["n"] += 1

    test = 'publish = { subject = "orders.late", json = { n = 1 } }\nexpect = { received.till = { body = { n = 1 } } }'
    assert told(run(test, handlers={"till": spoils})) == []


# --- publishing ------------------------------------------------------------------------------------------------------------


def test_a_publish_is_made_as_it_is_written(run: Run) -> None:
    """The envelope reaches the handler, and there is no body without `json`."""
    given: list[Message] = []
    test = """
    publish = [
        { subject = "orders.a", json = [1], key = "k", headers = { h = "x" }, id = "i", ttl = "5s" },
        { subject = "orders.b" },
    ]
    expect = { outcome = "accepted" }
    """
    assert run(test, handlers={"till": given.append}).passed
    first, second = given
    assert (first.body, first.key, first.headers, first.id, first.ttl) == ([1], "k", {"h": "x"}, "i", 5.0)
    assert (second.body, second.key, second.headers, second.ttl) == (None, None, {}, None)


def test_after_is_virtual_time_since_the_one_before(run: Run) -> None:
    """Virtual time passes between the messages, and the test does not wait for it."""
    given: list[Message] = []
    test = """
    publish = [
        { subject = "orders.a", after = "10s" },
        { subject = "orders.b", after = "2d" },
        { subject = "orders.c" },
    ]
    expect = { deliveries = 3 }
    """
    assert run(test, handlers={"till": given.append}).passed
    first, second, third = (message.time for message in given)
    assert (second - first, third - second) == (pytest.approx(2 * 86400.0), 0.0)


def test_a_window_of_time_ends_in_virtual_time(run: Run) -> None:
    """A duplicate is accepted once the filter has forgotten the first message."""
    one = '{ subject = "orders.a", id = "1" }'
    late = '{ subject = "orders.a", id = "1", after = "%s" }'
    assert run(
        f'publish = [{one}, {late % "599s"}, {late % "2s"}]\nexpect = {{ outcome = ["accepted", "dropped", "accepted"] }}'
    ).passed


def test_a_message_that_gets_too_old_is_dropped(run: Run) -> None:
    """The message's `ttl` ends while it waits for a handler that is tried again."""
    retry, expire = '{ use = "retry", wait = "10s", jitter = 0 }', '{ use = "expire", ttl = "1h" }'
    shop = SHOP.replace('handler = "till"', f'handler = "till"\nfilters = [{retry}, {expire}]')
    test = 'replace.handlers.till = { raises = "OSError: x", times = 1 }\n'
    fresh = 'publish = { subject = "orders.a", ttl = "11s" }\n'
    stale = 'publish = { subject = "orders.a", ttl = "9s" }\n'
    assert told(run(f"{test}{fresh}expect = {{ deliveries = 1 }}", shop)) == []
    assert told(run(f'{test}{stale}expect = {{ deliveries = 0, by = "expire", reason = "expired" }}', shop)) == []


# --- advance ---------------------------------------------------------------------------------------------------------------


def test_a_retry_is_waited_for_without_being_asked(run: Run) -> None:
    """A test ends when nothing is pending, however long that takes; `advance` is for schedules."""
    shop = SHOP.replace(
        'handler = "till"', 'handler = "till"\nfilters = [{ use = "retry", attempts = 3, wait = "5m", max_wait = "1h" }]'
    )
    test = f'{PLACED}\nreplace.handlers.till = {{ raises = "ConnectionError: down", times = 2 }}\n'
    result = run(f"{test}expect = {{ deliveries = {{ till = 1 }}, dead = 0 }}", shop)
    assert told(result) == []
    assert result.story.count("raises ConnectionError: down") == 2


@pytest.mark.parametrize("advance", ["", 'advance = "5h"\n'], ids=["drain", "advance"])
@pytest.mark.few(1)
def test_a_wait_of_hours_is_no_time(run: Run, advance: str) -> None:
    """Time is virtual, so no patience runs out."""
    shop = SHOP.replace(
        'handler = "till"',
        'handler = "till"\nfilters = [{ use = "retry", attempts = 3, wait = "2h", max_wait = "3h", jitter = 0 }]',
    )
    test = f'{PLACED}\nreplace.handlers.till = {{ raises = "ConnectionError: down", times = 1 }}\n{advance}'
    assert told(run(f"{test}expect = {{ deliveries = {{ till = 1 }} }}", shop)) == []


EVERY = """
[[every]]
interval = "1m"
subject = "orders.tick"
body = 5
headers = { by = "clock" }
"""


@pytest.mark.parametrize(("seconds", "ticks"), [(0, 0), (59, 0), (61, 1), (3601, 60)])
def test_advance_lets_schedules_come_due(run: Run, seconds: int, ticks: int) -> None:
    """A schedule ticks as often as its interval fits into the time."""
    test = f'publish = {{ subject = "nothing" }}\nadvance = "{seconds}s"\nexpect = {{ deliveries = {{ till = {ticks} }} }}'
    assert told(run(test, SHOP + EVERY)) == []


def test_a_schedule_s_message_is_received_like_any_other(run: Run) -> None:
    """The message has its body and headers, and comes after what was published."""
    test = f"""
    {PLACED}
    advance = "61s"
    expect = {{ received.till = [{{ body = "tea" }}, {{ body = 5, headers = {{ by = "clock" }} }}] }}
    """
    assert told(run(test, SHOP + EVERY)) == []


def test_a_schedule_is_tested_without_a_publish(run: Run) -> None:
    """Time passes, and the test expects what schedules and handlers publish, or why a filter stops it."""
    chain = """
    [[pipelines]]
    match = "orders.tick"
    filters = [{ use = "fields", set = { "body.at" = { expr = "time" } } }, { use = "reroute", to = "orders.{body.n}" }]
    """
    shop = SHOP + chain + EVERY.replace("body = 5", "body = { n = 5 }") + FORWARD.replace("questions", "orders.5")
    test = """
    replace.handlers.asks = { returns = "yes" }
    advance = "90s"
    expect = { published = %s, deliveries = { asks = 1 } }
    """
    first = '{ subject = "orders.5", body = { contains = { n = 5 } }, headers = { by = "clock" } }'
    assert told(run(test % f'[{first}, {{ subject = "orders.answer", body = "yes" }}]', shop)) == []
    assert told(run(test % f'[{first}, {{ body = "no" }}]', shop)) == ['published[1].body: expected "no", found "yes"']
    [difference] = told(run(test % "[]", shop))
    assert difference.startswith("published: expected 0 messages, found 2: orders.5 { n = 5, at = ")
    drops = 'replace.filters.fields = { drops = "too early" }\nadvance = "61s"\n'
    assert told(run(f'{drops}expect = {{ by = "fields", reason = "too early", published = [] }}', shop)) == []
    rejects = 'replace.filters.fields = { rejects = "too early" }\nadvance = "61s"\n'
    assert told(run(f'{rejects}expect = {{ by = "fields", reason = "too early", deliveries = 0 }}', shop)) == []


def test_what_is_delayed_happens_after_its_delay(run: Run) -> None:
    """The schedule's tick at 60 s may be taken 30 s later: it is still delivered, for the test ends when all is done."""
    shop = SHOP + EVERY + 'delay = "30s"\n'
    result = run('publish = { subject = "nothing" }\nadvance = "61s"\nexpect = { deliveries = { till = 1 } }', shop)
    assert told(result) == []
    assert "  90.000  till" in result.story


@pytest.mark.thorough
def test_what_never_ends_is_a_difference(run: Run) -> None:
    """No test runs forever: the result names what still waits."""
    shop = SHOP.replace(
        'handler = "till"',
        'handler = "till"\nfilters = [{ use = "retry", attempts = 9, wait = "20h", max_wait = "20h", jitter = 0 }]',
    )
    result = run(f'{PLACED}\nreplace.handlers.till = {{ raises = "OSError: x" }}\nexpect = {{ dead = 0 }}', shop)
    assert not result.passed
    assert any("till" in one and "pending" in one for one in told(result))


# --- stand-ins for handlers ------------------------------------------------------------------------------------------------

FORWARD = """
[[subscriptions]]
name = "asks"
subject = "questions"
handler = "till"
to = "orders.answer"
"""


def test_a_handler_is_replaced_and_not_called(run: Run) -> None:
    """The stand-in `{}` does nothing instead of the handler."""

    def never(message: Message) -> None:
        raise AssertionError("it is replaced")

    test = f"{PLACED}\nreplace.handlers.till = {{}}\nexpect = {{ deliveries = 2 }}"
    assert told(run(test, handlers={"till": never})) == []


def test_a_handler_has_to_be_handed_in_though_it_is_replaced(run: Run) -> None:
    """The file is first loaded as it is, to report everything that is wrong with it."""
    shop = SHOP.replace('handler = "depot"', 'handler = "robot"')
    test = f"{PLACED}\nreplace.handlers.depot = {{}}\nexpect = {{ deliveries = 2 }}"
    with pytest.raises(ConfigError, match='no handler "robot"'):
        run(test, shop)
    assert told(run(test, shop, handlers={"robot": print})) == []


@pytest.mark.parametrize(
    ("value", "expected"), [('"yes"', '"yes"'), ("5", "5"), ("{ a = [1] }", "{ a = [1] }")], ids=["text", "number", "table"]
)
def test_what_a_stand_in_returns_is_published(run: Run, value: str, expected: str) -> None:
    """A stand-in's value goes to the subject that the subscription names."""
    test = f"""
    publish = {{ subject = "questions" }}
    replace.handlers.asks = {{ returns = {value} }}
    expect = {{ received.till = {{ subject = "orders.answer", body = {expected} }} }}
    """
    assert told(run(test, SHOP + FORWARD)) == []


@pytest.mark.parametrize(
    ("raises", "error"),
    [
        ("ConnectionError: down", "ConnectionError: down"),
        ("ValueError", "ValueError"),
        ("TimeoutError:too late", "TimeoutError: too late"),
        ("ValueError: a: b", "ValueError: a: b"),
        ("Rejected: not here", "Rejected: rejected by till: not here"),
        ("down", "InjectedError: down"),
        ("print: x", "InjectedError: print: x"),
        ("KeyboardInterrupt: x", "InjectedError: KeyboardInterrupt: x"),
        ("UnicodeDecodeError: x", "InjectedError: UnicodeDecodeError: x"),
        ("ExceptionGroup: x", "InjectedError: ExceptionGroup: x"),
    ],
)
def test_a_stand_in_raises_what_it_is_told(run: Run, raises: str, error: str) -> None:
    """The stand-in raises an exception of Python's or of pipebus by its name, or an error with this text."""
    test = f'{PLACED}\nreplace.handlers.till = {{ raises = "{raises}" }}\nexpect = {{ dead = 1, error = "{error}" }}'
    assert told(run(test)) == []


def test_it_raises_as_often_as_it_is_told_then_returns(run: Run) -> None:
    """The stand-in raises once; then the second message is handled and answered."""
    test = """
    publish = [{ subject = "questions" }, { subject = "questions" }]
    replace.handlers.asks = { raises = "ValueError: x", times = 1, returns = "yes" }
    expect = { deliveries = { asks = 1 }, dead = { asks = 1 }, received.till = { body = "yes" } }
    """
    assert told(run(test, SHOP + FORWARD)) == []


def test_a_star_replaces_all_others(run: Run) -> None:
    """A named stand-in wins over the star, and each other part counts for itself."""
    test = """
    publish = [{ subject = "orders.placed" }, { subject = "orders.placed" }, { subject = "questions" }]
    replace.handlers."*" = { raises = "ValueError: x", times = 1 }
    replace.handlers.asks = {}
    expect = { dead = { till = 1, depot = 1, asks = 0 }, deliveries = { till = 1, depot = 1, asks = 1 } }
    """
    assert told(run(test, SHOP + FORWARD)) == []


def test_an_async_handler_may_be_replaced(run: Run, world: Path) -> None:
    """The handler may also be on a loop, inside an async filter."""
    module(
        world,
        "ft_async",
        """
        async def handle(message):
            raise AssertionError("it is replaced")

        async def around(message, call_next):
            return await call_next(message.with_headers(seen="yes"))
        """,
    )
    shop = """
    [[subscriptions]]
    name = "s"
    subject = "a"
    run = "loop"
    handler = "ft_async:handle"
    filters = [{ use = "python", target = "ft_async:around" }]
    [[subscriptions]]
    name = "t"
    subject = "b"
    handler = "till"
    """
    options = {"allow_imports": ["ft_async"]}
    assert told(run('publish = { subject = "a" }\nreplace.handlers.s = {}\nexpect = { deliveries = 1 }', shop, **options)) == []
    test = 'publish = { subject = "a" }\nreplace.handlers.s = { raises = "OSError: x" }\nexpect = { error = "OSError: x" }'
    assert told(run(test, shop, **options)) == []
    result = run('publish = { subject = "a" }\nexpect = { outcome = "accepted" }', shop, **options)
    assert told(result) == ["a message died in s: AssertionError: it is replaced (if that is expected: dead = 1)"]


# --- stand-ins for filters -------------------------------------------------------------------------------------------------

TWICE = 'publish = [{ subject = "orders.a", id = "1", headers = { weight = "0" } }, { subject = "orders.a", id = "2" }]\n'


@pytest.mark.parametrize(
    ("stand_in", "expected"),
    [
        ('"pass"', 'outcome = "accepted", deliveries = 2'),
        ('{ drops = "not today" }', 'outcome = "dropped", by = "scales", reason = "not today", deliveries = 0'),
        ('{ drops = "x", times = 1 }', 'outcome = ["dropped", "accepted"], by = "scales", reason = "x", deliveries = 1'),
        ('{ rejects = "not so" }', 'outcome = "rejected", by = "scales", reason = "not so"'),
        ('{ rejects = "x", times = 1 }', 'outcome = ["rejected", "accepted"], reason = "x"'),
        ('{ raises = "OSError: x" }', 'outcome = "failed", by = "scales", reason = "OSError: x"'),
        ('{ raises = "OSError: x", times = 1 }', 'outcome = ["failed", "accepted"]'),
        ('{ raises = "x" }', 'outcome = "failed", reason = "InjectedError: x"'),
    ],
)
def test_a_named_filter_is_replaced(run: Run, stand_in: str, expected: str) -> None:
    """The stand-in acts under the filter's own name, for as many messages as `times` says."""
    assert told(run(f"{TWICE}replace.filters.scales = {stand_in}\nexpect = {{ {expected} }}")) == []


def test_a_filter_that_is_replaced_is_not_made_for_the_run(cases: Cases, world: Path) -> None:
    """The filter is made only when the file is read, as a check, and it is never started."""
    module(
        world,
        "ft_costly",
        """
        from pipebus import Transform

        class Costly(Transform):
            made = started = 0

            def __init__(self):
                Costly.made += 1

            def start(self, context):
                Costly.started += 1

            def transform(self, message):
                return message
        """,
    )
    shop = SHOP + '[filters.costly]\nuse = "python"\ntarget = "ft_costly:Costly"\n[[pipelines]]\nfilters = ["costly"]\n'
    text = "".join(
        f'[[tests]]\nname = "{name}"\n{PLACED}\n{replaced}expect = {{ deliveries = 2 }}\n'
        for name, replaced in (("replaced", 'replace.filters.costly = "pass"\n'), ("as it is", ""))
    )
    replaced, plain = cases(shop + text, allow_imports=["ft_costly"])
    costly = sys.modules["ft_costly"].Costly
    assert (costly.made, costly.started) == (1, 0)
    assert told(replaced.run()) == []
    assert (costly.made, costly.started) == (1, 0)
    assert told(plain.run()) == []
    assert (costly.made, costly.started) == (2, 1)


def test_a_kind_is_replaced_wherever_it_stands(run: Run) -> None:
    """A kind is replaced in publish and delivery chains, with or without settings; named instances keep their own names."""
    shop = SHOP + '[[pipelines]]\nfilters = [{ use = "drop", when = { expr = "headers.weight == \'0\'" } }]\n'
    test = """
    publish = [
        { subject = "orders.placed", json = "gift card", id = "1" },
        { subject = "orders.placed", id = "2", headers = { weight = "0" } },
    ]
    """
    assert told(run(f'{dedent(test)}expect = {{ outcome = ["accepted", "dropped"], deliveries = 1 }}', shop)) == []
    result = run(f'{dedent(test)}replace.filters.drop = "pass"\nexpect = {{ deliveries = 2, by = "scales" }}', shop)
    assert told(result) == []
    result = run(
        f'{dedent(test)}replace.filters.drop = "pass"\nreplace.filters.scales = "pass"\nexpect = {{ deliveries = 4 }}', shop
    )
    assert told(result) == []


@pytest.mark.parametrize("name", ["drop", "Drop", "light"])
def test_a_filter_is_replaced_by_each_of_its_names(name: str, run: Run) -> None:
    """Its kind, as a file writes it and as `explain` shows it, and its own name; and a test may expect it by each of them."""
    shop = (
        SHOP
        + """[[pipelines]]
        filters = [{ use = "drop", name = "light", when = { expr = "headers.weight == '9'" } }]
    """
    )
    light = 'publish = { subject = "orders.placed", headers = { weight = "9" } }\n'
    assert told(run(f'{light}expect = {{ outcome = "dropped", by = "light" }}', shop)) == []
    replaced = f'{light}replace.filters.{name} = {{ rejects = "x" }}\n'
    assert told(run(f'{replaced}expect = {{ outcome = "rejected", by = "{name}", reason = "x" }}', shop)) == []


def test_a_filter_that_the_program_hands_in_is_replaced(run: Run) -> None:
    """The test uses the name under which the program hands the filter in."""
    shop = SHOP.replace('"scales"]', '"scales", "guard"]')
    calls: list[Message] = []

    @transform
    def guard(message: Message) -> Message:
        calls.append(message)
        raise Rejected("stop")

    options = {"filters": {"guard": guard}}
    assert told(run(f'{PLACED}\nexpect = {{ outcome = "rejected", by = "guard", reason = "stop" }}', shop, **options)) == []
    assert len(calls) == 1
    assert told(run(f'{PLACED}\nreplace.filters.guard = "pass"\nexpect = {{ outcome = "accepted" }}', shop, **options)) == []
    test = (
        f'{PLACED}\nreplace.filters.guard = {{ drops = "x" }}\nexpect = {{ outcome = "dropped", by = "guard", reason = "x" }}'
    )
    assert told(run(test, shop, **options)) == []
    assert len(calls) == 1

    @transform
    def guard_it(message: Message) -> Message:
        return guard.transform(message)

    assert told(run(test, shop, filters={"guard": guard_it})) == []
    assert len(calls) == 1


def test_an_async_filter_runs_and_may_be_replaced(run: Run) -> None:
    """The publish of a test waits for the async filter, and a stand-in can replace it in an async chain."""

    async def slow(message: Message, call_next: Any) -> Any:
        return await call_next(message.with_headers(seen="yes"))

    async def handle(message: Message) -> None:
        """A handler that runs on a loop."""

    shop = SHOP.replace('"scales"]', '"scales", "slow"]')
    options: dict[str, Any] = {"filters": {"slow": slow}, "handlers": {"till": handle, "depot": handle}}
    assert told(run(f'{PLACED}\nexpect = {{ received.till = {{ headers = {{ seen = "yes" }} }} }}', shop, **options)) == []
    test = f'{PLACED}\nreplace.filters.slow = "pass"\nexpect = {{ received.till = {{ headers = {{ absent = ["seen"] }} }} }}'
    assert told(run(test, shop, **options)) == []
    test = f'{PLACED}\nreplace.filters.slow = {{ rejects = "x" }}\nexpect = {{ outcome = "rejected", by = "slow" }}'
    assert told(run(test, shop, **options)) == []


def test_a_filter_around_a_handler_is_replaced(run: Run) -> None:
    """A message that the stand-in refuses becomes a dead letter."""
    shop = SHOP.replace('handler = "till"', 'handler = "till"\nfilters = ["gate"]') + '[filters.gate]\nuse = "log"\n'
    late = 'publish = { subject = "orders.late" }\n'
    expected = 'outcome = "accepted", by = "gate", reason = { contains = "closed" }, dead = 1'
    test = f'{late}replace.filters.gate = {{ rejects = "closed" }}\nexpect = {{ {expected} }}'
    assert told(run(test, shop)) == []
    test = f'{late}replace.filters.gate = {{ drops = "closed" }}\nexpect = {{ by = "gate", reason = "closed", deliveries = 0 }}'
    assert told(run(test, shop)) == []


# --- subscriptions without a handler ----------------------------------------------------------------------------------------

PULL = """
[[subscriptions]]
name = "inbox"
subject = "mail.*"
filters = [{ use = "drop", when = { expr = "body == 'spam'" }, reason = "spam" }]
"""


def test_what_waits_for_the_program_is_delivered(run: Run) -> None:
    """A mailbox that the program would read counts as delivered to, as far as its filters let messages through."""
    bodies = ("1", '"spam"', "2")
    publishes = "publish = [" + ", ".join(f'{{ subject = "mail.a", json = {body} }}' for body in bodies) + "]\n"
    expected = "deliveries = { inbox = 2 }, received.inbox = [{ body = 1 }, { body = 2 }]"
    assert told(run(f"{publishes}expect = {{ {expected} }}", PULL)) == []
    assert told(run(f'{publishes}expect = {{ by = "drop", reason = "spam" }}', PULL)) == []


def test_if_its_filters_drop_all_nothing_is_delivered(run: Run) -> None:
    """The test does not wait for messages that never come."""
    test = 'publish = { subject = "mail.a", json = "spam" }\nexpect = { deliveries = 0, received.inbox = [], reason = "spam" }'
    assert told(run(test, PULL)) == []


def test_what_is_too_old_for_a_reader_is_not_delivered(run: Run) -> None:
    """A message that expires before it is read is not delivered."""
    test = 'publish = { subject = "mail.a", ttl = "1s" }\nadvance = "2s"\nexpect = { deliveries = 0 }'
    assert told(run(test, PULL)) == []


def test_a_filter_that_fails_a_reader_is_a_dead_letter(run: Run) -> None:
    """The failure does not count as an error of the test."""
    test = 'publish = { subject = "mail.a", json = 1 }\nreplace.filters.drop = { raises = "OSError: x" }\n'
    assert told(run(f'{test}expect = {{ dead = {{ inbox = 1 }}, error = "OSError: x", deliveries = 0 }}', PULL)) == []


# --- tests are for themselves -----------------------------------------------------------------------------------------------


def test_a_filter_s_state_is_fresh_in_each_test(cases: Cases) -> None:
    """A message that one test has published is not a duplicate in the next test, or when the test runs again."""
    text = SHOP + "".join(
        f'[[tests]]\nname = "{name}"\npublish = {{ subject = "orders.a", id = "1" }}\nexpect = {{ outcome = "accepted" }}\n'
        for name in ("one", "two")
    )
    found = cases(text)
    for test in (*found, *reversed(found)):
        assert test.run().passed


def test_tests_may_be_run_in_any_order(cases: Cases) -> None:
    """The stand-in of one test is gone in the next."""
    text = (
        SHOP
        + """
    [[tests]]
    name = "replaced"
    publish = { subject = "orders.placed" }
    replace.handlers."*" = { raises = "ValueError: x", times = 1 }
    replace.filters.scales = { drops = "x", times = 1 }
    expect = { outcome = "dropped" }

    [[tests]]
    name = "as it is"
    publish = { subject = "orders.placed" }
    expect = { outcome = "accepted", deliveries = 2 }
    """
    )
    replaced, plain = cases(dedent(SHOP) + dedent(text.removeprefix(SHOP)))
    for test in (replaced, plain, replaced, replaced, plain):
        assert told(test.run()) == []


def test_data_of_a_test_is_its_run_s_own(cases: Cases) -> None:
    """A handler that changes a body, of a publish or of a stand-in's answer, changes it only for itself."""

    def counts(message: Message) -> None:
        seen.append(message.body["n"])
        message.body["n"] += 1

    seen: list[int] = []
    (test,) = cases(
        dedent(SHOP + FORWARD)
        + dedent("""
        [[tests]]
        name = "it"
        publish = [{ subject = "orders.late", json = { n = 1 } }, { subject = "questions" }, { subject = "questions" }]
        replace.handlers.asks = { returns = { n = 1 } }
        expect = { outcome = "accepted" }
        """),
        handlers={"till": counts},
    )
    assert test.run().passed
    assert test.run().passed
    assert seen == [1] * 6


def test_what_the_program_hands_in_is_the_program_s(cases: Cases) -> None:
    """A filter object from the program is one object with one state for all tests."""
    shop = SHOP.replace('"scales"]', '"scales", "own"]')
    text = '[[tests]]\nname = "it"\npublish = { subject = "orders.a", key = "k" }\nexpect = { outcome = "accepted" }\n'
    (test,) = cases(shop + text, filters={"own": transform(_second_is_dropped())})
    assert test.run().passed
    assert told(test.run()) == ['outcome: expected "accepted", found "dropped" (by own: seen)']


def _second_is_dropped() -> Callable[[Message], Message | Dropped]:
    seen: list[Message] = []

    def own(message: Message) -> Message | Dropped:
        seen.append(message)
        return message if len(seen) == 1 else Dropped("seen")

    return own


def test_in_one_test_a_filter_keeps_its_state(run: Run) -> None:
    """A Dedupe of the program keeps its state between two publishes."""
    shop = SHOP.replace('"scales"]', '"scales", "own"]')
    test = 'publish = [{ subject = "orders.a", key = "k" }, { subject = "orders.b", key = "k" }]\n'
    own = Dedupe(key=lambda message: message.key)
    result = run(f'{test}expect = {{ outcome = ["accepted", "dropped"], reason = "duplicate" }}', shop, filters={"own": own})
    assert told(result) == []


# --- results ---------------------------------------------------------------------------------------------------------------


def test_a_result_names_the_file_and_the_lines(cases: Cases) -> None:
    """The result gives the line of the test and of each expectation."""
    lines = SHOP.splitlines()
    first = 1 + len(lines) + 1
    (test,) = cases(
        SHOP
        + dedent("""\
        [[tests]]
        name = "tea is shipped"
        publish = { subject = "orders.placed", json = "gift card" }
        [tests.expect]
        outcome = "dropped"
        deliveries = { depot = 1 }
        received.depot = { body = "tea" }
        """)
    )
    assert (test.name, repr(test)) == ("tea is shipped", f"<FileTest pipebus.toml:{first} 'tea is shipped'>")
    result = test.run()
    assert (result.name, result.file, result.line, result.passed) == ("tea is shipped", "pipebus.toml", first, False)
    assert str(result).splitlines() == [
        f"pipebus.toml:{first}: tea is shipped: failed",
        f'  pipebus.toml:{first + 4}: outcome: expected "dropped", found "accepted"',
        f"  pipebus.toml:{first + 5}: deliveries.depot: expected 1, found 0",
        f"  pipebus.toml:{first + 6}: received.depot: expected 1 message, found 0",
    ]


def test_a_result_that_passed_says_so(run: Run) -> None:
    """The result is one line."""
    result = run(f'{PLACED}\nexpect = {{ outcome = "accepted" }}')
    assert (result.passed, result.differences) == (True, [])
    assert str(result) == f"pipebus.toml:{result.line}: it: passed"


def test_the_story_tells_what_happened(run: Run) -> None:
    """The story shows each step in virtual time from the start to the end, even for a test that passed."""
    test = """
    publish = [{ subject = "orders.placed", json = "gift card" }, { subject = "nobody", after = "90s" }]
    replace.handlers.till = { raises = "ValueError: x" }
    expect = { dead = 1 }
    """
    result = run(test)
    assert result.passed
    lines = [line.split(None, 2) for line in result.story.splitlines()]
    assert lines[0] == ["0.000", "bus", "is started"]
    assert ["0.000", "scales", "is given orders.placed 'gift card'"] in lines
    assert ["0.000", "Drop", "drops it: nothing to ship"] in lines
    assert ["0.000", "till", "raises ValueError: x"] in lines
    assert lines[-1] == ["90.000", "bus", "accepts nobody None for nobody"]


def test_the_story_shows_messages_as_filters_have_changed_them(run: Run, world: Path) -> None:
    """What the bus accepts, drops or refuses at the end of a publish is the message of that moment, also in an async chain."""
    shop = """
    [filters.end]
    use = "log"
    [[pipelines]]
    filters = [
        { use = "set_headers", headers = { seen = "yes" } },
        { use = "set_envelope", id = { expr = "body.to" } },
        { when = "orders.*", filters = [{ use = "fields", set = { "body.n" = 2 } }, { use = "reroute", to = "eu.{body.to}" }] },
        "end",
        { use = "python", target = "ft_story:through" },
    ]
    [[subscriptions]]
    name = "all"
    subject = ">"
    """
    (world / "ft_story.py").write_text("async def through(message, call_next):\n    return await call_next(message)\n")
    publish = 'publish = { subject = "orders.a", json = { to = "fr" } }'

    def last(does: str) -> list[str]:
        test = f"{publish}\nreplace.filters.end = {does}\nexpect = {{ dead = 0 }}"
        story = run(test, shop, allow_imports=["ft_story"]).story
        return [line.split(None, 2)[2] for line in story.splitlines() if line.split()[1] == "bus"][1:]

    found = "eu.fr {'to': 'fr', 'n': 2} headers {'seen': 'yes'}"
    assert last('"pass"') == [f"accepts {found} for 1 mailbox"]
    assert last('{ drops = "full" }') == [f"drops {found}: full"]
    assert last('{ rejects = "bad" }') == [f"refuses {found}: Rejected: rejected by end: bad"]


@pytest.mark.parametrize(
    "expected", ['received.till = { body = "x" }', 'received.till = { headers = { t = "x" } }', "dead = 0"]
)
def test_secrets_are_told_by_their_source(run: Run, monkeypatch: pytest.MonkeyPatch, expected: str) -> None:
    """Results are printed in logs, so they show a secret's source instead of its value."""
    monkeypatch.setenv("FT_TOKEN", "s3cret-value")
    test = f"""
    publish = {{ subject = "orders.placed", json = "${{env:FT_TOKEN}}", headers = {{ t = "${{env:FT_TOKEN}}" }} }}
    replace.handlers.depot = {{ raises = "ValueError: ${{env:FT_TOKEN}}" }}
    expect = {{ {expected} }}
    """
    result = run(test)
    assert not result.passed
    assert "s3cret-value" not in str(result) + result.story
    assert "${env:FT_TOKEN}" in result.story


# --- files -----------------------------------------------------------------------------------------------------------------


def module(folder: Path, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(dedent(source), encoding="utf-8")


def test_a_file_that_cannot_be_loaded_has_no_tests(cases: Cases) -> None:
    """The error lists every problem, both of the bus and of the tests."""
    with pytest.raises(ConfigError) as error:
        cases(
            SHOP
            + '[[subscriptions]]\nname = "x"\n[[tests]]\nname = "it"\npublish = { subject = "a" }\nexpect = { dead = -1 }\n'
        )
    texts = [problem.text for problem in error.value.problems]
    assert any('"subject" is missing' in text for text in texts)
    assert any("dead = -1" in text for text in texts)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    """The error names the missing file."""
    with pytest.raises(ConfigError, match=r"none\.toml"):
        file_tests(tmp_path / "none.toml")


def test_a_file_without_tests_has_none(cases: Cases) -> None:
    """A file without tests is not a mistake."""
    assert cases(SHOP) == []


def test_a_file_that_was_changed_meanwhile_is_told_when_it_is_run(cases: Cases) -> None:
    """Each run loads the file again."""
    (test,) = cases(f'{SHOP}\n[[tests]]\nname = "it"\n{PLACED}\nexpect = {{ outcome = "accepted" }}\n')
    Path("pipebus.toml").write_text("version = 2\n")
    with pytest.raises(ConfigError, match="version = 2"):
        test.run()


BESIDE = """
version = 1
[[subscriptions]]
name = "s"
subject = "a"
handler = "ft_shop:handle"
to = "b"
[[subscriptions]]
name = "t"
subject = "b"
handler = "ft_shop:handle"
[[tests]]
name = "it"
publish = { subject = "a" }
expect = { received.t = { body = "FOLDER" } }
"""


def beside(folder: Path, lazily: bool = False) -> Path:
    """Write a file whose handlers are in a module next to it; the value they return is in another module."""
    folder.mkdir(exist_ok=True)
    path = folder / "pipebus.toml"
    path.write_text(BESIDE.replace("FOLDER", folder.name))
    module(folder, "ft_more", f"VALUE = {folder.name!r}\n")
    first, then = "from ft_more import VALUE", "pass"
    first, then = (then, first) if lazily else (first, then)
    module(folder, "ft_shop", f"{first}\n\ndef handle(message):\n    {then}\n    return VALUE\n")
    return path


@pytest.mark.parametrize("lazily", [False, True], ids=["at the top", "in the handler"])
def test_modules_are_found_beside_the_file(world: Path, lazily: bool) -> None:
    """The file's modules and those that they import are found, even later; afterwards `sys.path` is as it was."""
    path = list(sys.path)
    (test,) = file_tests(beside(world / "one", lazily), allow_imports=["ft_shop"])
    assert sys.path == path
    assert told_of(test.run()) == []
    assert sys.path == path


def told_of(result: Result) -> list[str]:
    return [one.partition(": ")[2] for one in result.differences]


def test_two_files_have_modules_of_their_own(world: Path) -> None:
    """Two files may have modules of the same name: each test runs with the module next to its own file."""
    found = [test for name in ("one", "two") for test in file_tests(beside(world / name), allow_imports=["ft_shop"])]
    for test in (*found, *reversed(found)):
        assert told_of(test.run()) == []


def test_what_is_not_allowed_is_not_imported(world: Path) -> None:
    """A module must be allowed even if it is next to the file."""
    with pytest.raises(ConfigError, match='package "ft_shop" is not allowed'):
        file_tests(beside(world / "one"))
    assert "ft_shop" not in sys.modules


# --- by pytest -------------------------------------------------------------------------------------------------------------

TILL = """
version = 1

[[subscriptions]]
name = "till"
subject = "orders"
handler = "ft_till:book"

[[tests]]
name = "an order is booked"
publish = { subject = "orders", json = { sku = "tea" } }
expect = { deliveries = 1 }

[[tests]]
name = "what is broken [or not] is told"
publish = { subject = "orders", json = { sku = "cup" } }
expect = { deliveries = 2, received.till.body.sku = "pot" }
"""

ALONE = [part for name in ("cacheprovider", "hypothesispytest", "asyncio", "anyio", "xdist") for part in ("-p", f"no:{name}")]

BOOK = "def book(message):\n    pass\n"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with a config file and its module; the plugin is the one that is installed."""
    pytester.makeini("[pytest]\npipebus_allow = ft_till\n")
    shop = pytester.mkdir("shop")
    (shop / "pipebus.toml").write_text(TILL.lstrip())
    (shop / "ft_till.py").write_text(BOOK)
    return pytester


def pytest_of(project: pytest.Pytester, *options: str) -> Any:
    """Run in this process, without the plugins of others."""
    return project.runpytest_inprocess(*ALONE, *options)


def test_each_test_of_a_file_is_an_item(project: pytest.Pytester) -> None:
    """Each item has its test's name, and runs together with those of Python files."""
    project.makepyfile(test_other="def test_it(): pass")
    result = pytest_of(project, "-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "shop/pipebus.toml::an order is booked PASSED*",
            "shop/pipebus.toml::what is broken [[]or not[]] is told FAILED*",
            "test_other.py::test_it PASSED*",
        ],
        consecutive=True,
    )


def test_a_failure_shows_the_differences_and_the_story_once(project: pytest.Pytester) -> None:
    """The failure shows a file and line to click on, and no frame of pipebus."""
    text = pytest_of(project).stdout.str()
    shown = text.partition(" what is broken [or not] is told _")[2].partition("short test summary")[0]
    assert [line for line in shown.splitlines() if line.strip("_ ")][:3] == [
        "shop/pipebus.toml:13: what is broken [or not] is told: failed",
        "  shop/pipebus.toml:16: deliveries: expected 2, found 1 (till 1)",
        '  shop/pipebus.toml:16: received.till.body.sku: expected "pot", found "cup"',
    ]
    assert shown.count("is given orders {'sku': 'cup'}") == 1
    assert "'tea'" not in shown
    assert "Traceback" not in text
    assert "file_tests.py" not in text
    assert "pipebus_pytest.py" not in text
    assert "what follows was still to be done" not in text


def test_k_chooses_by_name(project: pytest.Pytester) -> None:
    """The option -k works as for any test."""
    result = pytest_of(project, "-k", "booked")
    result.assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [("an order is booked", {"passed": 1}), ("what is broken [or not] is told", {"failed": 1})],
    ids=["words", "brackets"],
)
def test_one_is_chosen_by_its_node(project: pytest.Pytester, name: str, outcomes: dict[str, int]) -> None:
    """A test runs alone when it is named as `path/to/pipebus.toml::name`."""
    pytest_of(project, f"shop/pipebus.toml::{name}").assert_outcomes(**outcomes)


def test_a_name_that_no_test_has_is_an_error(project: pytest.Pytester) -> None:
    """The error is pytest's own."""
    result = pytest_of(project, "shop/pipebus.toml::no such")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not found: *pipebus.toml::no such*"])


def test_only_files_of_these_names_are_collected(project: pytest.Pytester) -> None:
    """Only `pipebus.toml` and `NAME.pipebus.toml` are collected."""
    text = TILL[: TILL.index("[[tests]]", TILL.index("[[tests]]") + 1)]
    for name in ("billing.pipebus.toml", "other.toml", "xpipebus.toml", "pipebus.toml.txt", "pipebus.json"):
        (project.path / "shop" / name).write_text(text)
    result = pytest_of(project, "--collect-only", "-q")
    items = [line for line in result.stdout.lines if "::" in line]
    assert items == [
        "shop/billing.pipebus.toml::an order is booked",
        "shop/pipebus.toml::an order is booked",
        "shop/pipebus.toml::what is broken [or not] is told",
    ]


def test_what_may_be_imported_stands_in_a_setting(project: pytest.Pytester) -> None:
    """Without the setting the file cannot be loaded, and the error says where to allow the import."""
    project.makeini("[pytest]\n")
    result = pytest_of(project)
    result.assert_outcomes(errors=1)
    text = result.stdout.str()
    assert 'shop/pipebus.toml:6: subscriptions[0] "till": handler = "ft_till:book": package "ft_till" is not allowed' in text
    assert "see the setting pipebus_allow" in text
    assert "Traceback" not in text
    assert "pipebus_pytest.py" not in text


def test_the_setting_takes_several(project: pytest.Pytester) -> None:
    """The setting takes one line or several, as pytest's own settings do."""
    project.makeini("[pytest]\npipebus_allow = somewhere.else\n    ft_till\n")
    pytest_of(project, "-k", "booked").assert_outcomes(passed=1, deselected=1)


def test_a_broken_file_is_an_error_with_its_text(project: pytest.Pytester) -> None:
    """The error lists every problem with its line, and the other tests still run."""
    (project.path / "shop" / "pipebus.toml").write_text("version = 1\nnonsense = 1\n[[subscriptions]]\nname = 5\n")
    project.makepyfile(test_other="def test_it(): pass")
    result = pytest_of(project, "--continue-on-collection-errors")
    result.assert_outcomes(errors=1, passed=1)
    text = result.stdout.str()
    assert "shop/pipebus.toml:2: " in text
    assert "shop/pipebus.toml:4: " in text
    assert "problems; nothing was loaded" in text
    assert "Traceback" not in text
    assert "reader.py" not in text


def test_a_file_that_can_be_loaded_no_more_fails_its_test(project: pytest.Pytester) -> None:
    """The file changed after it was collected: the failure is the file's error, without a traceback."""
    path = project.path / "shop" / "pipebus.toml"
    path.write_text(
        TILL.partition("[[tests]]")[0]
        + '[[tests]]\nname = "it"\npublish = { subject = "orders" }\nexpect = { deliveries = 1 }\n'
    )
    project.makeconftest(
        f"""
        import pathlib, pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_setup(item):
            pathlib.Path({str(path)!r}).write_text("version = 2")
        """
    )
    result = pytest_of(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*shop/pipebus.toml:1: version = 2: this pipebus reads version 1*"])
    assert "pipebus_pytest.py" not in result.stdout.str()
    assert "ConfigError" not in result.stdout.str()


@pytest.mark.thorough
def test_a_file_outside_of_the_working_directory_has_its_whole_path(project: pytest.Pytester, tmp_path: Path) -> None:
    """A user can find the file by the path that the result shows."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    file = folder / "pipebus.toml"
    file.write_text('version = 1\n[[tests]]\nname = "it"\npublish = { subject = "a" }\nexpect = { outcome = "accepted" }\n')
    result = pytest_of(project, str(file))
    result.assert_outcomes(failed=1)
    assert f'{file}:5: outcome: expected "accepted", found "unrouted"' in result.stdout.str()


def test_two_folders_have_modules_of_their_own_in_one_run(project: pytest.Pytester) -> None:
    """Modules of the same name do not get mixed up in one run."""
    project.makeini("[pytest]\npipebus_allow = ft_shop\n")
    (project.path / "shop" / "pipebus.toml").unlink()
    for name in ("one", "two"):
        beside(project.path / name)
    pytest_of(project).assert_outcomes(passed=2)


@pytest.mark.thorough
def test_the_plugin_can_be_switched_off(project: pytest.Pytester) -> None:
    """With `-p no:pipebus`, no file of this kind is collected."""
    project.makeini("[pytest]\n")
    project.makepyfile(test_other="def test_it(): pass")
    result = project.runpytest_subprocess(*ALONE, "-p", "no:pipebus")
    result.assert_outcomes(passed=1)
    assert "pipebus.toml" not in result.stdout.str()


@pytest.mark.thorough
def test_it_runs_in_a_process_of_its_own(project: pytest.Pytester) -> None:
    """The test runs as users run it: with all plugins, and with warnings as errors."""
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "-k", "booked")
    result.assert_outcomes(passed=1, deselected=1)


def test_a_passing_one_shows_nothing(project: pytest.Pytester) -> None:
    """Neither a story nor a log line of the bus appears, even if a handler failed as expected."""
    (project.path / "shop" / "ft_till.py").write_text("def book(message):\n    raise ValueError('shut')\n")
    path = project.path / "shop" / "pipebus.toml"
    path.write_text(
        TILL.partition("[[tests]]")[0]
        + '[[tests]]\nname = "it"\npublish = { subject = "orders" }\nexpect = { error = "ValueError: shut" }\n'
    )
    result = pytest_of(project, "-rA")
    result.assert_outcomes(passed=1)
    assert "is given" not in result.stdout.str()
