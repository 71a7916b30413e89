"""Subjects, patterns, the index of patterns, typed names and references."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import re
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipebus import Bus, Message, PipebusError, Ref, Subject, SubjectError
from pipebus.message.patterns import Pattern, PatternTree
from scale_helpers import examples
from tables import table
from truth_table import DEEP, LONGEST, NO_PATTERN, NO_SUBJECT, ROWS, Refused, Row
from values_helpers import CALM

PATTERNS = list(dict.fromkeys(row.pattern for row in ROWS))
SUBJECTS = list(dict.fromkeys(row.subject for row in ROWS))


def by_why(rows: tuple[Any, ...]) -> Any:
    """A test that goes through a table's rows, named by their rule."""
    return table("row", rows, ids=[row.why for row in rows])


# --- the truth table ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard() -> dict[str, set[str]]:
    """Return, for each pattern of the table, the subjects that a real subscription to it received."""
    found: dict[str, list[str]] = {pattern: [] for pattern in PATTERNS}
    with Bus() as bus:
        for pattern in PATTERNS:
            bus.subscribe(pattern, lambda message, pattern=pattern: found[pattern].append(message.subject))
        receipts = {subject: bus.publish(subject) for subject in SUBJECTS}
        bus.drain(timeout=10)
    everything = Counter(subject for subjects in found.values() for subject in subjects)
    assert {subject: receipt.mailboxes for subject, receipt in receipts.items()} == {s: everything[s] for s in SUBJECTS}
    assert all(len(subjects) == len(set(subjects)) for subjects in found.values()), "a subscription heard a message twice"
    return {pattern: set(subjects) for pattern, subjects in found.items()}


@pytest.fixture(scope="module")
def tree() -> PatternTree[str]:
    """An index of all patterns of the table, each filed with its own text."""
    tree: PatternTree[str] = PatternTree()
    for pattern in PATTERNS:
        tree.add(Pattern(pattern), pattern)
    return tree


def test_the_table_asks_each_question_once() -> None:
    """The table has many rows, none of them twice, and each has a rule of its own."""
    assert len(ROWS) >= 70
    assert len({(row.pattern, row.subject) for row in ROWS}) == len(ROWS)
    assert len({row.why for row in ROWS}) == len(ROWS)
    assert {row.matches for row in ROWS} == {True, False}


@by_why(ROWS)
def test_pattern_matches_as_the_table_says(row: Row) -> None:
    """A pattern matches exactly the subjects that NATS says it does."""
    assert Pattern(row.pattern).matches(row.subject) is row.matches


@by_why(ROWS)
def test_tree_finds_as_the_table_says(row: Row, tree: PatternTree[str]) -> None:
    """The index of patterns gives the same answer as one pattern asked alone."""
    assert (row.pattern in list(tree.match(row.subject))) is row.matches


@by_why(ROWS)
def test_subscription_hears_as_the_table_says(row: Row, heard: dict[str, set[str]]) -> None:
    """A subscription on a bus receives exactly what its pattern matches."""
    assert (row.subject in heard[row.pattern]) is row.matches


def test_all_three_agree_on_every_pair(tree: PatternTree[str], heard: dict[str, set[str]]) -> None:
    """Pattern, index and bus agree on each pattern with each subject of the table, also on those that no row asks about."""
    for subject in SUBJECTS:
        alone = {pattern for pattern in PATTERNS if Pattern(pattern).matches(subject)}
        assert Counter(tree.match(subject)) == Counter(alone)
        assert {pattern for pattern in PATTERNS if subject in heard[pattern]} == alone


def test_table_agrees_with_a_regular_expression() -> None:
    """The table itself is right: an independent reading of the rules gives its answers."""
    assert [row for row in ROWS if bool(as_regex(row.pattern).fullmatch(row.subject)) is not row.matches] == []


def as_regex(pattern: str) -> re.Pattern[str]:
    """Return NATS's matching rules, written as a regular expression."""
    parts = {"*": r"[^.]+", ">": r".+"}
    return re.compile(r"\.".join(parts.get(token) or re.escape(token) for token in pattern.split(".")), re.DOTALL)


# --- what is refused ---------------------------------------------------------------------------------------------------


@by_why(NO_PATTERN)
def test_what_is_no_pattern_is_refused_word_by_word(row: Refused) -> None:
    """The error names the text, the place and the mistake, and says how to write it."""
    with pytest.raises(SubjectError) as refused:
        Pattern(row.text)
    assert str(refused.value) == row.says


@by_why((*NO_PATTERN, *NO_SUBJECT))
def test_bus_refuses_to_publish_to_what_is_no_subject(row: Refused) -> None:
    """`publish` refuses any text that cannot be a subject, in the same words, and counts no message."""
    with Bus() as bus:
        with pytest.raises(SubjectError) as refused:
            bus.publish(row.text, 1)
        assert str(refused.value) == row.says
        assert bus.stats()["accepted"] == 0


@by_why(NO_PATTERN)
def test_bus_refuses_to_subscribe_to_what_is_no_pattern(row: Refused) -> None:
    """`subscribe` refuses any text that cannot be a pattern, in the same words, and leaves nothing behind."""
    bus = Bus()
    with pytest.raises(SubjectError) as refused:
        bus.subscribe(row.text, print)
    assert str(refused.value) == row.says
    assert bus.subscriptions == []


@by_why(NO_PATTERN)
def test_subject_refuses_what_is_no_pattern(row: Refused) -> None:
    """A typed name is checked where it is written."""
    with pytest.raises(SubjectError) as refused:
        Subject[int](row.text)
    assert str(refused.value) == row.says


@by_why(NO_SUBJECT)
def test_a_wildcard_can_be_subscribed_to(row: Refused) -> None:
    """A wildcard cannot be published to, but it may be a pattern."""
    assert Pattern(row.text).literal is False


@table("wrong", [5, None, b"orders", ["orders"], object()], ids=["int", "none", "bytes", "list", "object"])
def test_what_is_no_string_is_no_pattern(wrong: Any) -> None:
    """The error says what was found and how an object is addressed."""
    with pytest.raises(SubjectError) as refused:
        Pattern(wrong)
    text = str(refused.value)
    assert text.startswith(f"a subject is a string, found {type(wrong).__name__}")
    assert text.endswith("address objects as Ref(obj)")


@table("wrong", [5, None, b"orders", object(), ("a", "b"), 1.5, True], ids=lambda wrong: type(wrong).__name__)
def test_mail_to_an_object_that_is_not_wrapped_is_refused(wrong: Any) -> None:
    """A forgotten `Ref` (or a None) is an error, not a message that nobody hears."""
    with Bus() as bus:
        with pytest.raises(SubjectError, match=r"Ref\(obj\)"):
            bus.publish(wrong, 1)
        assert bus.stats()["unrouted"] == 0


def test_a_subject_error_is_also_a_value_error() -> None:
    """Code that catches `ValueError`, or every error of pipebus, catches it."""
    assert issubclass(SubjectError, ValueError)
    assert issubclass(SubjectError, PipebusError)


# --- pattern -----------------------------------------------------------------------------------------------------------


def test_patterns_are_equal_by_text() -> None:
    """A pattern is a value: equal text, equal pattern, equal hash."""
    assert Pattern("orders.*") == Pattern("orders.*")
    assert Pattern("orders.*") != Pattern("orders.>")
    assert Pattern("orders.*") != "orders.*"
    assert len({Pattern("orders.*"), Pattern("orders.*"), Pattern("orders.>")}) == 2


def test_a_pattern_shows_its_text() -> None:
    """`str` gives the text, `repr` what to write."""
    assert str(Pattern("orders.*")) == "orders.*"
    assert repr(Pattern("orders.*")) == "Pattern('orders.*')"
    assert Pattern("orders.*").tokens == ("orders", "*")


def test_no_pattern_matches_an_object() -> None:
    """Mail that is addressed to an object passes by all patterns, `>` included."""
    for thing in (Ref(object()), object(), None, 5, b"orders"):
        assert not Pattern(">").matches(thing)
        assert not Pattern("*").matches(thing)
        assert not Pattern("orders").matches(thing)


def test_a_pattern_matches_a_typed_subject() -> None:
    """`Subject[int]("a.b")` is the name `a.b` to every pattern."""
    for pattern in ("a.b", "a.*", "*.b", ">"):
        assert Pattern(pattern).matches(Subject[int]("a.b"))
    assert Pattern(Subject[int]("a.*")) == Pattern("a.*")


# --- covers and overlaps: against brute force ----------------------------------------------------------------------------

LETTERS = ("a", "b")
WORLD = [".".join(tokens) for length in range(1, 6) for tokens in itertools.product((*LETTERS, "other"), repeat=length)]
"""
Every subject that can matter to patterns of up to four tokens of `a` and `b`: one token longer, because `>` is open, and with
one letter that no pattern names, because `*` takes that too.
"""


def members(pattern: str) -> frozenset[str]:
    expression = as_regex(pattern)
    return frozenset(subject for subject in WORLD if expression.fullmatch(subject))


@st.composite
def small_patterns(draw: st.DrawFn) -> str:
    """Up to four tokens of a small alphabet, `>` only at the end."""
    tokens = draw(st.lists(st.sampled_from((*LETTERS, "*")), min_size=0, max_size=3))
    return ".".join([*tokens, draw(st.sampled_from((*LETTERS, "*", ">")))])


def every_small_pattern(longest: int) -> Iterator[str]:
    for length in range(longest):
        for head in itertools.product((*LETTERS, "*"), repeat=length):
            for last in (*LETTERS, "*", ">"):
                yield ".".join([*head, last])


@given(small_patterns(), small_patterns())
@settings(CALM, max_examples=examples(40, 250))
def test_covers_is_containment_of_what_is_matched(one: str, other: str) -> None:
    """`covers` is true exactly when no subject is matched by the other pattern alone."""
    assert Pattern(one).covers(Pattern(other)) == (members(other) <= members(one))


@given(small_patterns(), small_patterns())
@settings(CALM, max_examples=examples(40, 250))
def test_overlaps_is_a_subject_in_common(one: str, other: str) -> None:
    """`overlaps` is true exactly when some subject is matched by both."""
    assert Pattern(one).overlaps(Pattern(other)) == (not members(one).isdisjoint(members(other)))


def test_every_pair_of_small_patterns() -> None:
    """All pairs of patterns of up to three tokens, none left to chance."""
    known = {text: (Pattern(text), members(text)) for text in every_small_pattern(3)}
    assert len(known) == 4 + 12 + 36
    for (one, here), (other, there) in itertools.product(known.values(), repeat=2):
        assert one.covers(other) == (there <= here), (one, other)
        assert one.overlaps(other) == (not here.isdisjoint(there)), (one, other)


@given(small_patterns(), st.sampled_from(WORLD))
@settings(CALM, max_examples=examples(40, 250))
def test_matches_agrees_with_a_regular_expression(pattern: str, subject: str) -> None:
    """`matches` gives what an independent reading of the rules gives."""
    assert Pattern(pattern).matches(subject) == bool(as_regex(pattern).fullmatch(subject))


@given(small_patterns(), small_patterns())
@settings(CALM)
def test_covers_and_overlaps_keep_their_laws(one: str, other: str) -> None:
    """
    The laws are: each covers itself; covering implies overlapping; overlapping is mutual; a pattern covers a literal it
    matches.
    """
    a, b = Pattern(one), Pattern(other)
    assert a.covers(a)
    assert a.overlaps(a)
    assert not a.covers(b) or a.overlaps(b)
    assert a.overlaps(b) == b.overlaps(a)
    if b.literal:
        assert a.covers(b) == a.overlaps(b) == a.matches(other)


# --- the index: against a list -------------------------------------------------------------------------------------------


class Filed:
    """A value that is equal to every other: only its identity tells it apart."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class NaiveIndex:
    """What the tree promises, in the plainest code: a list of pairs."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Filed]] = []

    def add(self, pattern: str, value: Filed) -> None:
        self.pairs.append((pattern, value))

    def remove(self, pattern: str, value: Filed) -> bool:
        for index, (text, filed) in enumerate(self.pairs):
            if text == pattern and filed is value:
                del self.pairs[index]
                return True
        return False

    def match(self, subject: str) -> Counter[int]:
        return Counter(id(value) for pattern, value in self.pairs if as_regex(pattern).fullmatch(subject))


VALUES = [Filed() for _ in range(4)]
STEPS = st.lists(st.tuples(st.booleans(), small_patterns(), st.integers(0, len(VALUES) - 1)), max_size=30)


@given(STEPS, st.lists(st.sampled_from(WORLD), min_size=1, max_size=8))
@settings(CALM, max_examples=100)
def test_tree_does_what_a_list_does(steps: list[tuple[bool, str, int]], subjects: list[str]) -> None:
    """The index finds what a search through a list finds after any adds and removes, by identity, and counts as many."""
    tree: PatternTree[Filed] = PatternTree()
    naive = NaiveIndex()
    for adds, pattern, number in steps:
        value = VALUES[number]
        if adds:
            tree.add(Pattern(pattern), value)
            naive.add(pattern, value)
        else:
            assert tree.remove(Pattern(pattern), value) == naive.remove(pattern, value)
        assert tree.size == len(naive.pairs)
        for subject in subjects:
            assert Counter(map(id, tree.match(subject))) == naive.match(subject)
    assert Counter(map(id, tree)) == Counter(id(value) for _, value in naive.pairs)


def test_values_under_one_pattern_keep_their_order() -> None:
    """The value that was filed first is found first."""
    tree: PatternTree[int] = PatternTree()
    for number in range(5):
        tree.add(Pattern("a.*"), number)
    assert list(tree.match("a.b")) == [0, 1, 2, 3, 4]


def test_removing_what_was_never_filed_changes_nothing() -> None:
    """`remove` says that there was nothing, whether the pattern or only the value is unknown."""
    tree: PatternTree[Filed] = PatternTree()
    tree.add(Pattern("a.b"), VALUES[0])
    for pattern in ("a.b", "a", "a.b.c", "a.*", ">"):
        assert tree.remove(Pattern(pattern), VALUES[1]) is False
    assert list(map(id, tree.match("a.b"))) == [id(VALUES[0])]
    assert tree.size == 1


def test_removing_a_deep_pattern_keeps_the_shorter_one() -> None:
    """Empty branches are removed, and what others still use stays."""
    tree: PatternTree[str] = PatternTree()
    tree.add(Pattern("a.b"), "short")
    tree.add(Pattern("a.b.c.d"), "long")
    assert tree.remove(Pattern("a.b.c.d"), "long") is True
    assert list(tree) == ["short"]
    assert list(tree.match("a.b")) == ["short"]
    assert list(tree.match("a.b.c.d")) == []


class Held:
    """A value whose end can be seen."""


def test_an_emptied_tree_holds_nothing() -> None:
    """A program that subscribes and unsubscribes forever does not leak memory."""
    tree: PatternTree[Held] = PatternTree()
    value = Held()
    gone = weakref.ref(value)
    tree.add(Pattern("a.*.c.>"), value)
    tree.remove(Pattern("a.*.c.>"), value)
    del value
    gc.collect()
    assert gone() is None
    assert tree.size == 0
    assert list(tree) == []


def test_the_deepest_subject_is_matched() -> None:
    """A subject with the largest number of tokens is matched by patterns as deep."""
    subject = ".".join("d" * 512)
    tree: PatternTree[str] = PatternTree()
    for pattern in (subject, ".".join("*" * 512), "d.>", ">"):
        tree.add(Pattern(pattern), pattern[:3])
    assert sorted(tree.match(subject)) == ["*.*", ">", "d.>", "d.d"]
    assert len(list(tree)) == 4


# --- on a bus ------------------------------------------------------------------------------------------------------------


def test_overlapping_patterns_of_one_subscription_give_one_copy() -> None:
    """A subscription to `a.*` and `a.>` and `a.b` hears `a.b` once; two subscriptions hear it twice."""
    found: list[str] = []
    with Bus() as bus:
        bus.subscribe(["a.*", "a.>", "a.b"], lambda message: found.append("one"))
        bus.subscribe("a.>", lambda message: found.append("other"))
        assert bus.publish("a.b").mailboxes == 2
        bus.drain(timeout=10)
    assert sorted(found) == ["one", "other"]


def test_a_typed_subject_works_wherever_a_string_does() -> None:
    """Subscribed as a `Subject`, published as a string, and the other way round."""
    created = Subject[int]("orders.created")
    found: list[Any] = []
    with Bus() as bus:
        bus.subscribe(created, lambda message: found.append(message.body))
        bus.publish("orders.created", 1)
        bus.publish(created, 2)
        bus.send(Message(created, 3))
        bus.drain(timeout=10)
    assert found == [1, 2, 3]


def test_a_typed_wildcard_can_be_subscribed_to_but_not_published_to() -> None:
    """A `Subject` may be a pattern; publishing to it says what is wrong."""
    every = Subject[int]("orders.*")
    found: list[Any] = []
    with Bus() as bus:
        bus.subscribe(every, lambda message: found.append(message.body))
        bus.publish("orders.created", 1)
        with pytest.raises(SubjectError, match="wildcards are for subscriptions"):
            bus.publish(every, 2)
        bus.drain(timeout=10)
    assert found == [1]


@pytest.mark.parametrize("subject", [LONGEST, DEEP], ids=["longest", "deep"])
def test_extreme_subjects_arrive_whole(subject: str) -> None:
    """The bus carries every subject that the grammar allows."""
    with Bus("memory:?wire=json") as bus, bus.subscribe(">") as sub:
        bus.publish(subject, 1)
        assert sub.receive(timeout=10).subject == subject


# --- Subject[T] ----------------------------------------------------------------------------------------------------------


@dataclass
class Order:
    id: int


def test_a_subject_is_its_name() -> None:
    """It equals the string, hashes like it and is found under it."""
    created = Subject[Order]("orders.created")
    assert created == "orders.created"
    assert isinstance(created, str)
    assert {created: 1}["orders.created"] == 1
    assert f"{created}" == "orders.created"


def test_a_subject_remembers_its_type() -> None:
    """The types between the brackets can be asked for; without brackets there is none."""
    assert Subject[Order]("orders.created").type is Order
    assert Subject[list[int]]("orders.created").type == list[int]
    assert Subject[Order]("orders.created").reply is Any
    assert (Subject[Order, int]("orders.count").type, Subject[Order, int]("orders.count").reply) == (Order, int)
    assert (Subject("orders.created").type, Subject("orders.created").reply) == (None, None)


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "deep", "pickle"]
)
def test_a_copied_subject_is_the_same(twin: Any) -> None:
    """Copying and pickling keep name and types."""
    again = twin(Subject[Order, int]("orders.created"))
    assert again == "orders.created"
    assert type(again) is Subject
    assert (again.type, again.reply) == (Order, int)


# --- Ref -----------------------------------------------------------------------------------------------------------------


class Alike:
    """Objects that are all equal to each other."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 7


def test_refs_are_equal_when_they_hold_the_same_object() -> None:
    """Identity counts, not the object's own idea of equality."""
    one, other = Alike(), Alike()
    assert one == other
    assert Ref(one) == Ref(one)
    assert hash(Ref(one)) == hash(Ref(one))
    assert Ref(one) != Ref(other)
    assert Ref(one) != one
    assert len({Ref(one), Ref(one), Ref(other)}) == 2


def test_a_ref_keeps_its_object() -> None:
    """A `Ref` returns its object and keeps it alive, so no other object can get the same identity."""
    thing = Alike()
    assert Ref(thing).object is thing
    assert repr(Ref(5)) == "Ref(5)"


@pytest.mark.parametrize("wrong", [[], {}, set()], ids=["list", "dict", "set"])
def test_a_ref_to_what_cannot_be_hashed_is_refused(wrong: Any) -> None:
    """The error names the object, its type and the remedy."""
    with pytest.raises(SubjectError) as refused:
        Ref(wrong)
    assert str(refused.value) == (
        f"Ref({wrong!r}): {type(wrong).__name__} objects are not hashable; refer to an object that is"
    )


def test_mail_to_a_ref_reaches_that_object_only() -> None:
    """Neither an equal object, nor `>`, nor the object's text receives it."""
    mine, yours = Alike(), Alike()
    found: list[str] = []
    with Bus() as bus:
        bus.subscribe(Ref(mine), lambda message: found.append("mine"))
        bus.subscribe(Ref(yours), lambda message: found.append("yours"))
        bus.subscribe(">", lambda message: found.append("all"))
        assert bus.publish(Ref(mine), 1).mailboxes == 1
        bus.drain(timeout=10)
    assert found == ["mine"]


def test_the_subject_of_mail_to_a_ref_is_the_ref() -> None:
    """A reader finds the object through `message.subject`."""
    thing = Alike()
    with Bus() as bus, bus.subscribe(Ref(thing)) as sub:
        bus.publish(Ref(thing), "hello")
        message = sub.receive(timeout=10)
    assert message.subject == Ref(thing)
    assert message.subject.object is thing


def test_a_pattern_that_is_taken_out_leaves_no_empty_branch() -> None:
    """Subjects that come and go leave nothing behind in the index, and a neighbour keeps what it needs."""

    def branches() -> int:
        """How many trees the index is made of."""
        count, met = 0, [index]
        while met:
            found: Any = met.pop()
            count += isinstance(found, PatternTree)
            met += [held for held in gc.get_referents(found) if isinstance(held, (dict, PatternTree))]
        return count

    index: PatternTree[Any] = PatternTree()
    index.add(Pattern("a.kept.*"), "kept")
    kept = branches()
    for number in range(10):
        index.add(Pattern(f"a.{number}.*"), "gone")
    for number in range(10):
        assert index.remove(Pattern(f"a.{number}.*"), "gone")

    assert branches() == kept == 4
    assert list(index.match("a.kept.b")) == ["kept"]
