"""The envelope: its fields, what it refuses, that it cannot change, and its id."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipebus import Bus, HeaderError, Message, MessageError, PipebusError, Receipt, Ref, SubjectError
from tables import table
from values_helpers import CALM, run_python

FULL: dict[str, Any] = {
    "subject": "orders.created",
    "body": {"id": 1},
    "headers": {"trace": "7"},
    "key": "customer-1",
    "ttl": 60.0,
    "reply_to": "orders.replies",
    "correlation_id": "c-1",
    "id": "m-1",
    "time": 1_357_000_000.5,
}
"""Every field of a message, none with its default."""


def full(**changes: Any) -> Message[Any]:
    return Message(**{**FULL, **changes})


# --- what it is made of ------------------------------------------------------------------------------------------------


def test_every_field_can_be_given_and_read() -> None:
    """What goes in can be read back."""
    message = full()
    assert {name: getattr(message, name) for name in FULL} == FULL


def test_only_the_subject_is_needed() -> None:
    """Every other field has a default: no body, no headers, no limits, an id and the present time."""
    message = Message("orders.created")
    assert (message.body, dict(message.headers), message.key, message.ttl) == (None, {}, None, None)
    assert (message.reply_to, message.correlation_id) == (None, None)
    assert message.id
    assert message.time > 1_700_000_000


def test_a_message_needs_a_subject() -> None:
    """The error names the one field that cannot be left out."""
    with pytest.raises(TypeError, match="subject"):
        Message()


def test_an_object_wrapped_as_a_ref_may_be_the_subject() -> None:
    """A message can be sent to the object itself, and so can answers."""
    thing = object()
    message = Message(Ref(thing), reply_to=Ref(thing))
    assert message.subject == message.reply_to == Ref(thing)


def test_type_arguments_change_nothing_at_run_time() -> None:
    """`Message[int](…)` is a message like any other."""
    assert type(Message[int]("a", 1)) is Message


def test_a_body_is_handed_on_as_it_is() -> None:
    """The body that comes back in memory is the very same object."""
    body = object()
    assert Message("a", body).body is body
    assert full(body=body).with_headers(a="b").body is body


# --- it cannot change --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FULL)
def test_no_field_can_be_assigned(field: str) -> None:
    """Code that holds a message can rely on it staying as it is."""
    message = full()
    with pytest.raises(AttributeError):
        setattr(message, field, FULL[field])
    assert message == full()


@pytest.mark.parametrize("field", FULL)
def test_no_field_can_be_deleted(field: str) -> None:
    """Nobody can take a field out of a message."""
    message = full()
    with pytest.raises(AttributeError):
        delattr(message, field)
    assert message == full()


def test_no_field_can_be_added() -> None:
    """A message takes no new attributes; headers are the place for notes."""
    with pytest.raises(AttributeError):
        full().note = "x"


CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda headers: headers.__setitem__("trace", "8"),
    "add": lambda headers: headers.__setitem__("new", "8"),
    "delete": lambda headers: headers.__delitem__("trace"),
    "update": lambda headers: headers.update(trace="8"),
    "or in place": lambda headers: headers.__ior__({"trace": "8"}),
    "pop": lambda headers: headers.pop("trace"),
    "popitem": lambda headers: headers.popitem(),
    "clear": lambda headers: headers.clear(),
    "setdefault": lambda headers: headers.setdefault("new", "8"),
}


@table("change", CHANGES.values(), ids=CHANGES)
def test_headers_cannot_be_changed(change: Callable[[Any], object]) -> None:
    """No way of changing a dictionary changes headers; the error says what to write instead."""
    message = full()
    with pytest.raises(TypeError, match=r"message\.with_headers\(name=value\)"):
        change(message.headers)
    assert message.headers == {"trace": "7"}


def test_headers_of_messages_without_headers_cannot_be_changed() -> None:
    """The empty headers least of all may change, because many messages share them."""
    with pytest.raises(TypeError):
        Message("a").headers["x"] = "1"
    assert Message("b").headers == {}


def test_a_mapping_given_as_headers_is_copied() -> None:
    """A change to the dictionary that headers were made of changes no message."""
    given_headers = {"trace": "7"}
    message = Message("a", headers=given_headers)
    given_headers["trace"] = "8"
    assert message.headers == {"trace": "7"}


def test_any_mapping_will_do_for_headers() -> None:
    """Headers may be any mapping, not only a dictionary."""
    assert Message("a", headers=MappingProxyType({"trace": "7"})).headers == {"trace": "7"}


# --- changed copies ----------------------------------------------------------------------------------------------------


def test_with_body_changes_the_body_only() -> None:
    """A copy differs only in its body; its id and time stay, so it counts as the same message."""
    original = full()
    changed = original.with_body("other")
    assert changed == full(body="other")
    assert original == full()


@pytest.mark.parametrize("field", FULL)
def test_replace_changes_one_field_and_keeps_the_others(field: str) -> None:
    """Any field can be replaced, in a copy; what is not named stays, also the id."""
    before = Message("before", 1, headers={"a": "b"}, key="k", ttl=5.0, reply_to="there", correlation_id="c", id="i", time=1.0)
    after = before.replace(**{field: FULL[field]})
    assert {name: getattr(after, name) for name in FULL} == {name: getattr(before, name) for name in FULL} | {
        field: FULL[field]
    }
    assert getattr(before, field) != FULL[field]


def test_replace_takes_what_a_new_message_takes() -> None:
    """A time to live may be text, an id of None asks for a new one, and a wrong name is named."""
    message = full().replace(ttl="200ms", id=None)
    assert message.ttl == 0.2
    assert message.id != FULL["id"]
    with pytest.raises(TypeError, match="a message has no field 'colour'; there are subject, body"):
        message.replace(colour="red")  # type: ignore[call-arg]


def test_with_headers_adds_and_replaces() -> None:
    """Given headers win over those that are there, keywords over the mapping; nothing else changes."""
    original = full(headers={"trace": "7", "kept": "yes"})
    changed = original.with_headers({"trace": "8", "added": "1"}, added="2")
    assert changed == full(headers={"trace": "8", "kept": "yes", "added": "2"})
    assert original.headers == {"trace": "7", "kept": "yes"}


def test_with_headers_takes_names_that_are_no_identifiers() -> None:
    """The mapping is for names such as `content-type`."""
    assert Message("a").with_headers({"content-type": "text/plain"}).headers == {"content-type": "text/plain"}


def test_with_headers_takes_a_header_called_mapping() -> None:
    """No keyword is taken by the method itself."""
    assert Message("a").with_headers(mapping="1", self="2").headers == {"mapping": "1", "self": "2"}


def test_with_no_headers_is_an_equal_message() -> None:
    """Adding nothing is allowed and adds nothing."""
    assert full().with_headers() == full().with_headers({}) == full().with_headers(None) == full()


def test_changed_copies_keep_an_id_that_nobody_has_read_yet() -> None:
    """The id is the same whether it is read before the copy is made or after."""
    unread = Message("a")
    copies = [unread.with_body(1), unread.with_headers(a="b"), copy.copy(unread)]
    assert {each.id for each in copies} == {unread.id}


def test_a_header_can_be_overwritten_in_a_chain_of_copies() -> None:
    """A copy never changes the message that it was made from."""
    first = Message("a").with_headers(step="1")
    second = first.with_headers(step="2")
    third = second.with_body("x").with_headers(other="3")
    assert [dict(m.headers) for m in (first, second, third)] == [{"step": "1"}, {"step": "2"}, {"step": "2", "other": "3"}]


# --- equality, hash, repr, pickle ----------------------------------------------------------------------------------------


OTHERS = {
    "subject": "orders.changed",
    "body": {"id": 2},
    "headers": {},
    "key": None,
    "ttl": 61.0,
    "reply_to": None,
    "correlation_id": "c-2",
    "id": "m-2",
    "time": 1.0,
}


def test_messages_are_equal_when_every_field_is() -> None:
    """A message is a value: equal fields make equal messages."""
    one, other = full(), full()
    assert one == other
    assert (one != other) is False


@pytest.mark.parametrize("field", OTHERS)
def test_messages_differ_when_one_field_does(field: str) -> None:
    """No field is left out of the comparison."""
    assert full(**{field: OTHERS[field]}) != full()


def test_a_message_equals_nothing_else() -> None:
    """A message is not equal to its dictionary, its tuple or its id."""
    for other in (FULL, tuple(FULL.values()), "m-1", None):
        assert full() != other


def test_two_messages_of_the_same_content_differ_by_id() -> None:
    """Publishing the same content twice makes two messages."""
    assert Message("a", 1) != Message("a", 1)


@pytest.mark.parametrize("first_read", ["original", "copy", "neither", "both"])
def test_reading_an_id_changes_nothing(first_read: str) -> None:
    """A copy is equal to its original and has the same hash, whichever of the two ids has been read."""
    original = Message("a", 1)
    twin = copy.copy(original)
    read = {"original": [original], "copy": [twin], "neither": [], "both": [original, twin]}[first_read]
    assert all(message.id for message in read)
    assert twin == original
    assert hash(twin) == hash(original)


def test_a_message_can_be_in_a_set() -> None:
    """Any message can be in a set, whatever its body, and stays there when its id is read."""
    message = Message("a", {"un": "hashable"}, {"trace": "7"})
    seen = {message}
    assert message.id
    assert message in seen
    assert message.with_body([]) not in seen
    assert len({full(), full(), full(id="m-2")}) == 2


def test_repr_shows_what_is_set() -> None:
    """The repr shows what a person looks for first: subject, body, and every field that is not a default."""
    assert repr(full()) == (
        "Message('orders.created', {'id': 1}, headers={'trace': '7'}, key='customer-1', ttl=60.0, "
        "reply_to='orders.replies', correlation_id='c-1', id='m-1')"
    )
    assert repr(Message("a", id="m-1")) == "Message('a', None, id='m-1')"


TWINS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda m, n=n: pickle.loads(pickle.dumps(m, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
@pytest.mark.parametrize(
    "make", [full, lambda: Message("a"), lambda: Message("a", [1], {"x": "y"})], ids=["full", "bare", "some"]
)
def test_copies_and_pickles_are_equal_and_as_immutable(twin: Callable[[Any], Any], make: Callable[[], Message[Any]]) -> None:
    """A copy is a whole message again: equal, with headers that cannot be changed."""
    original = make()
    again = twin(original)
    assert again == original
    assert type(again) is Message
    assert (again.id, again.time, dict(again.headers)) == (original.id, original.time, dict(original.headers))
    with pytest.raises(TypeError):
        again.headers["x"] = "1"


def test_a_deep_copy_has_a_body_of_its_own() -> None:
    """Changing its body does not reach the original."""
    original = full()
    copy.deepcopy(original).body["id"] = 2
    assert original.body == {"id": 1}


def test_a_message_with_mail_to_an_object_can_be_copied() -> None:
    """The copy is addressed to the very same object."""
    thing = object()
    assert copy.copy(Message(Ref(thing))).subject == Ref(thing)


# --- what it refuses ---------------------------------------------------------------------------------------------------


SURROGATE = "\ud800"

NO_HEADERS: dict[str, tuple[Any, str]] = {
    "number": (5, "headers are a mapping of names to values, found int"),
    "pairs": ([("a", "b")], "headers are a mapping of names to values, found list"),
    "text": ("a: b", "headers are a mapping of names to values, found str"),
    "name is a number": ({1: "x"}, "a header's name is a string, found int (1)"),
    "name is bytes": ({b"a": "x"}, "a header's name is a string, found bytes (b'a')"),
    "name is empty": ({"": "x"}, "'' cannot be a header's name; use printable characters without spaces or colons"),
    "value is a number": ({"tries": 3}, 'header "tries" is a string, found int; write str(...) of it'),
    "value is none": ({"tries": None}, 'header "tries" is a string, found NoneType; write str(...) of it'),
    "value is bytes": ({"tries": b"3"}, 'header "tries" is a string, found bytes; write str(...) of it'),
    "value is a list": ({"tries": ["3"]}, 'header "tries" is a string, found list; write str(...) of it'),
    "second value": ({"fine": "x", "tries": 3}, 'header "tries" is a string, found int; write str(...) of it'),
    **{
        f"name has {why}": ({bad: "x"}, f"{bad!r} cannot be a header's name; use printable characters without spaces or colons")
        for why, bad in {
            "a space": "a b",
            "a colon": "a:b",
            "CR": "a\rb",
            "LF": "a\nb",
            "NUL": "a\0b",
            "a tab": "a\tb",
            "a no-break space": "a\xa0b",
            "DEL": "a\x7fb",
            "a surrogate": f"a{SURROGATE}",
        }.items()
    },
    **{
        f"reserved {name}": (
            {name: "x"},
            f'header "{name}" is reserved ("pipebus-" and "Nats-" belong to the bus); choose another name',
        )
        for name in ("pipebus-attempt", "Pipebus-Attempt", "PIPEBUS-", "Nats-Msg-Id", "nats-msg-id", "NATS-X")
    },
}
VALUE_FAULTS = {
    "CR": ("a\rb", "contains '\\r'"),
    "LF": ("a\nb", "contains '\\n'"),
    "CR LF": ("a\r\nX-Evil: 1", "contains '\\r'"),
    "NUL": ("a\0b", "contains '\\x00'"),
    "a lone surrogate": (f"a{SURROGATE}b", "lone surrogate"),
    "LF at the end": ("a\n", "contains '\\n'"),
}
"""What a text of an envelope must not contain, and what the error says about it."""


WAYS: dict[str, Callable[[Any], object]] = {
    "Message": lambda headers: Message("a", headers=headers),
    "with_headers": lambda headers: Message("a").with_headers(headers),
    "publish": lambda headers: _publish(headers=headers),
}
"""The ways in which headers are given."""


def _publish(**fields: Any) -> object:
    with Bus() as bus:
        return bus.publish("a", 1, **fields)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("wrong", "says"), NO_HEADERS.values(), ids=NO_HEADERS)
def test_bad_headers_are_refused_word_by_word(wrong: Any, says: str, way: str) -> None:
    """The error names the header, what was found and what to write, whichever way the header came."""
    with pytest.raises(HeaderError) as refused:
        WAYS[way](wrong)
    assert str(refused.value) == says


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("bad", "fault"), VALUE_FAULTS.values(), ids=VALUE_FAULTS)
def test_a_header_value_that_cannot_be_carried_is_refused(bad: str, fault: str, way: str) -> None:
    """Nobody can smuggle a second header, or half a character, through a value."""
    with pytest.raises(HeaderError) as refused:
        WAYS[way]({"note": bad})
    text = str(refused.value)
    assert text.startswith('header "note" ')
    assert fault in text
    text.encode()  # the error itself can be printed


@pytest.mark.parametrize(
    "name", ["trace", "X-Trace", "content-type", "a_b.c/d", "größe", "注文", "Nats", "pipebus", "x-nats-y", "natsy-"]
)
@pytest.mark.parametrize("value", ["", "7", " padded ", "two words", "a:b", "tab\there", "größe 注文 😀", "x" * 10_000])
def test_good_headers_are_taken_as_they_are(name: str, value: str) -> None:
    """Empty values, unicode, spaces in values: nothing is stripped, folded or rewritten."""
    assert Message("a", headers={name: value}).headers == {name: value}


def test_a_reserved_name_stays_refused_however_often_it_is_tried() -> None:
    """Names that were checked once are remembered; bad ones are not."""
    for _ in range(3):
        with pytest.raises(HeaderError, match="reserved"):
            Message("a", headers={"fine": "1", "Nats-Msg-Id": "1"})


@given(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3))
@settings(CALM, max_examples=60)
def test_headers_are_taken_whole_or_refused(headers: dict[str, str]) -> None:
    """A message has exactly the headers that were given, whatever their text, or raises a `HeaderError`."""
    try:
        found = Message("a", headers=headers).headers
    except HeaderError:
        return
    assert found == headers
    assert not any(character in text for pair in found.items() for text in pair for character in "\r\n\0")
    assert not any(name.lower().startswith(("pipebus-", "nats-")) for name in found)


FIELD_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "key number": ({"key": 5}, "key is a string or None, found int (5)"),
    "key bytes": ({"key": b"k"}, "key is a string or None, found bytes (b'k')"),
    "correlation number": ({"correlation_id": 5}, "correlation_id is a string or None, found int (5)"),
    "ttl zero": ({"ttl": 0}, "ttl=0: it is greater than 0 seconds, and finite"),
    "ttl negative": ({"ttl": -1.5}, "ttl=-1.5: it is greater than 0 seconds, and finite"),
    "ttl nan": ({"ttl": math.nan}, "ttl=nan: it is greater than 0 seconds, and finite"),
    "ttl infinite": ({"ttl": math.inf}, "ttl=inf: it is greater than 0 seconds, and finite"),
    "ttl text": ({"ttl": "60"}, 'ttl=\'60\': it is a number of seconds, or text such as "200ms", "5s", "10m"'),
    "ttl unit": ({"ttl": "5min"}, "ttl='5min': unknown unit \"min\"; there are us, ms, s, m, h, d"),
    "ttl true": ({"ttl": True}, 'ttl=True: it is a number of seconds, or text such as "200ms", "5s", "10m"'),
    "reply_to number": ({"reply_to": 5}, "reply_to is a subject or None, found int (5)"),
}
"""Fields that `publish` takes too."""

MESSAGE_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    **FIELD_ERRORS,
    "time text": ({"time": "now"}, "found 'now'"),
    "time nan": ({"time": math.nan}, "found nan"),
    "time infinite": ({"time": math.inf}, "found inf"),
    "time negative": ({"time": -1.0}, "found -1.0"),
    "time beyond the calendar": ({"time": 253_402_300_800.0}, "found 253402300800.0"),
    "time true": ({"time": True}, "found True"),
}


@table(("fields", "says"), MESSAGE_ERRORS.values(), ids=MESSAGE_ERRORS)
def test_an_impossible_field_is_refused(fields: dict[str, Any], says: str) -> None:
    """The error names the field, what it must be and what was found."""
    (field,) = fields
    with pytest.raises(MessageError) as refused:
        full(**fields)
    text = str(refused.value)
    assert text.startswith(field)
    assert text.endswith(says)


@table(("fields", "says"), FIELD_ERRORS.values(), ids=FIELD_ERRORS)
def test_publish_refuses_an_impossible_field_in_the_same_words(fields: dict[str, Any], says: str) -> None:
    """The publisher gets the error about a bad field at once, and a handler never gets it later."""
    with pytest.raises(MessageError) as refused:
        _publish(**fields)
    assert str(refused.value) == says


@pytest.mark.parametrize("field", ["key", "correlation_id", "id"])
@pytest.mark.parametrize(("bad", "fault"), VALUE_FAULTS.values(), ids=VALUE_FAULTS)
@pytest.mark.parametrize("make", [full, _publish], ids=["Message", "publish"])
def test_a_text_that_cannot_be_carried_is_refused(make: Callable[..., Any], bad: str, fault: str, field: str) -> None:
    """CR, LF, NUL and half characters are kept out of every text of the envelope."""
    with pytest.raises(MessageError) as refused:
        make(**{field: bad})
    text = str(refused.value)
    assert text.startswith(field)
    text.encode()


@pytest.mark.parametrize("make", [full, _publish], ids=["Message", "publish"])
@pytest.mark.parametrize("wrong", [5, 0, b"m-1", "", True, object()], ids=["int", "zero", "bytes", "empty", "true", "object"])
def test_an_id_is_a_text(make: Callable[..., Any], wrong: Any) -> None:
    """An id must be a text, because a number could be mistaken for the id of another message."""
    with pytest.raises(MessageError, match=r"^id is a "):
        make(id=wrong)


@pytest.mark.parametrize("field", ["id", "time"])
def test_none_stands_for_a_made_value(field: str) -> None:
    """`id=None` and `time=None` mean the same as leaving them out, or are refused; a message always has both."""
    with contextlib.suppress(MessageError):
        assert getattr(Message("a", **{field: None}), field) is not None


BAD_SUBJECTS = {
    "empty token": ("a..b", "has an empty token at position 2"),
    "empty": ("", "is empty"),
    "a space": ("a b", "contains ' '"),
    "CR LF": ("a\r\nb", "contains '\\r'"),
    "NUL": ("a\0", "contains '\\x00'"),
    "a surrogate": (f"a{SURROGATE}", "lone surrogate"),
    "star": ("a.*", 'has the wildcard "*"'),
    "greater-than": ("a.>", 'has the wildcard ">"'),
}


@pytest.mark.parametrize(("subject", "fault"), BAD_SUBJECTS.values(), ids=BAD_SUBJECTS)
@pytest.mark.parametrize("field", ["subject", "reply_to"])
def test_a_bad_subject_is_refused_where_it_is_written(field: str, subject: str, fault: str) -> None:
    """A message needs valid subjects, both to be addressed and to be answered."""
    with pytest.raises(SubjectError) as refused:
        full(**{field: subject})
    assert fault in str(refused.value)
    str(refused.value).encode()


@table(("subject", "fault"), BAD_SUBJECTS.values(), ids=BAD_SUBJECTS)
def test_publish_refuses_a_reply_address_that_is_no_subject(subject: str, fault: str) -> None:
    """Otherwise the handler that answers would fail for the publisher's mistake."""
    with pytest.raises(SubjectError) as refused:
        _publish(reply_to=subject)
    assert fault in str(refused.value)


@table("wrong", [5, None, b"a", object(), ["a"]], ids=lambda wrong: type(wrong).__name__)
def test_a_subject_that_is_no_address_is_refused(wrong: Any) -> None:
    """The error says how an object is addressed."""
    with pytest.raises(SubjectError, match=r"Ref\(obj\)"):
        Message(wrong)


@pytest.mark.parametrize("wrong", ["orders.created", {"subject": "a"}, None, 5], ids=lambda wrong: type(wrong).__name__)
def test_send_takes_messages_only(wrong: Any) -> None:
    """The error says what was found and which call was meant."""
    with Bus() as bus, pytest.raises(MessageError) as refused:
        bus.send(wrong)
    assert str(refused.value) == f"send takes a Message, found {type(wrong).__name__}; publish(subject, body) makes one"


def test_errors_of_a_message_are_caught_as_usual() -> None:
    """They are subclasses of pipebus's root, and of the built-in class that a Python programmer expects."""
    assert issubclass(MessageError, PipebusError)
    assert issubclass(MessageError, TypeError)
    assert issubclass(HeaderError, PipebusError)
    assert issubclass(HeaderError, ValueError)


# --- what publish makes --------------------------------------------------------------------------------------------------


def test_publish_makes_the_message_of_its_arguments() -> None:
    """Each argument of `publish` is a field of what the subscriber reads."""
    fields = {name: FULL[name] for name in ("headers", "key", "ttl", "reply_to", "correlation_id", "id")}
    with Bus() as bus, bus.subscribe("orders.created") as sub:
        bus.publish("orders.created", {"id": 1}, **fields)
        message = sub.receive(timeout=10)
    assert {name: getattr(message, name) for name in fields} == fields
    assert (message.subject, message.body) == ("orders.created", {"id": 1})


def test_send_keeps_the_message() -> None:
    """The subscriber reads the very message that was sent."""
    message = Message("a", 1, ttl=60)
    with Bus() as bus, bus.subscribe("a") as sub:
        bus.send(message)
        assert sub.receive(timeout=10) is message


# --- ids -----------------------------------------------------------------------------------------------------------------


def test_an_id_never_changes() -> None:
    """The id stays the same, however often it is read."""
    message = Message("a")
    assert message.id == message.id
    assert isinstance(message.id, str)
    assert message.id.isprintable()


def test_an_id_that_is_given_is_kept() -> None:
    """A publisher that may repeat a publish can give the id itself."""
    assert Message("a", id="order-7").id == "order-7"
    assert Message("a", id="größe 7").id == "größe 7"


def in_threads(work: Callable[[int], list[str]], count: int = 8) -> list[list[str]]:
    """What `work` returns in each of many threads that begin at the same moment."""
    ready = threading.Barrier(count)
    results: list[list[str]] = [[] for _ in range(count)]

    def run(number: int) -> None:
        ready.wait(timeout=10)
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as the interpreter allows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_ids_are_unique_across_threads() -> None:
    """Threads that make messages at the same time never make the same id, and each sees its own grow."""
    results = in_threads(lambda _: [Message("a").id for _ in range(1000)])
    made = [id for ids in results for id in ids]
    assert len(set(made)) == len(made) == 8000
    assert all(ids == sorted(ids) for ids in results)


@pytest.mark.usefixtures("restless")
def test_ids_read_by_many_threads_at_once_are_one() -> None:
    """The first reading of an id may happen in several threads: all read the same."""
    messages = [Message("a") for _ in range(500)]
    results = in_threads(lambda _: [message.id for message in messages], count=4)
    assert results[0] == results[1] == results[2] == results[3]
    assert len(set(results[0])) == 500


def test_ids_are_unique_across_buses() -> None:
    """Messages of several buses, and messages made by hand, can meet in one place."""
    made: list[str] = [Message("a").id for _ in range(100)]
    with Bus() as one, Bus() as other:
        for bus in (one, other, one):
            with bus.subscribe("a") as sub:
                for _ in range(100):
                    bus.publish("a")
                made += [sub.receive(timeout=10).id for _ in range(100)]
    assert len(set(made)) == len(made) == 400


def test_ids_of_one_bus_sort_by_age() -> None:
    """Sorting what one bus published by id puts it in the order of publishing."""
    with Bus() as bus, bus.subscribe("a") as sub:
        for number in range(3000):
            bus.publish("a", number)
        messages = [sub.receive(timeout=10) for _ in range(3000)]
    assert [m.body for m in sorted(messages, key=lambda m: m.id)] == list(range(3000))


def test_ids_made_by_hand_sort_by_age() -> None:
    """The ids of messages that one program makes itself sort by age too."""
    ids = [Message("a").id for _ in range(3000)]
    assert ids == sorted(ids)


FORKS = textwrap.dedent(
    """
    import json, os, sys
    from pipebus import Bus, Message

    def make():
        ids = [Message("a").id for _ in range(100)]
        with Bus() as bus, bus.subscribe("a") as sub:
            for _ in range(100):
                bus.publish("a")
            ids += [sub.receive(timeout=10).id for _ in range(100)]
        return ids

    def in_child(work):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            with open(write, "w") as out:
                json.dump(work(), out)
            os._exit(0)
        os.close(write)
        with open(read) as answer:
            found = json.load(answer)
        assert os.waitpid(child, 0)[1] == 0
        return found

    with Bus() as bus, bus.subscribe("a") as sub:
        bus.publish("a")
        unread = [Message("a"), sub.receive(timeout=10)]

    def report():
        return {"old": [message.id for message in unread], "new": make()}

    def report_with_grandchild():
        return [report(), in_child(report)]

    found = [in_child(report), in_child(report), *in_child(report_with_grandchild), report()]
    json.dump(found, sys.stdout)
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes can fork")
@pytest.mark.thorough
def test_ids_are_unique_across_processes() -> None:
    """Children, a grandchild, their parent and a second program never make the same id; an id made before a fork is one."""
    families = [json.loads(run_python(FORKS)) for _ in range(2)]
    new = [id for family in families for member in family for id in member["new"]]
    assert len(new) == 2 * 5 * 200
    assert len(set(new)) == len(new)
    for family in families:
        (old,) = {tuple(member["old"]) for member in family}
        assert len(set(old)) == 2
        assert not set(old) & set(new)


def test_a_receipt_may_be_compared() -> None:
    """What `publish` returns is a value."""
    with Bus() as bus:
        assert bus.publish("a") == Receipt(0)
