"""Redact: keep secrets and personal data out of mailboxes, wherever in a message they are."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import enum
import random
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel

from flow_helpers import wait_until
from missing import needs
from pipebus import Bus, ConfigError, Message, PipebusError, Pipeline, Rejected, when
from pipebus.filters import Log, Redact, Tap, Validate
from pipebus.testing import Harness, check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from pipebus.testing.logs import captured_logs
from scale_helpers import scaled
from tables import table
from values_helpers import named

MASKED = "[redacted]"
SECRET = "4111-1111-1111"


def body_of(filter: Redact, body: Any) -> Any:
    return filter.transform(Message("a", body)).body


def test_fields_are_masked_by_name_at_any_depth(colour: Any, at: Any) -> None:
    """Names are found in tables within tables and lists; a value that is a table or list is masked as a whole."""
    body = {
        "Email": "ada@example.org",
        "commits": [{"author": {"email": "a", "name": "Ada"}}, {"author": None}, [{"email": 5}]],
        "card": {"number": "4111", "cvc": ["1", "2"]},
        "email_verified": True,
    }
    before = copy.deepcopy(body)
    run = run_filter(Redact(["email", "card"]), Message("a", body), colour=colour, at=at)
    assert run.forwarded.body == {
        "Email": MASKED,
        "commits": [{"author": {"email": MASKED, "name": "Ada"}}, {"author": None}, [{"email": MASKED}]],
        "card": MASKED,
        "email_verified": True,
    }
    assert body == before


class Name(enum.Enum):
    """A plain enumeration, whose value is the name in JSON."""

    EMAIL = "email"


def test_keys_that_json_turns_into_the_name_are_masked() -> None:
    """Whatever a key is in memory, the name on the wire counts."""
    body = {Name.EMAIL: "a", "inside": [{b"Email": "b"}]}
    assert body_of(Redact(["email"]), body) == {Name.EMAIL: MASKED, "inside": [{b"Email": MASKED}]}


def test_fields_are_removed_by_name(colour: Any) -> None:
    """`remove=True` leaves no trace of the field."""
    run = run_filter(Redact(["email"], remove=True), Message("a", {"email": 1, "list": [{"EMAIL": 2, "id": 3}]}), colour=colour)
    assert run.forwarded.body == {"list": [{"id": 3}]}


def test_a_name_may_say_in_which_table(colour: Any) -> None:
    """The name "author.email" means the email of an author, at any depth, also in a list; or a field whose name has a dot."""
    body = {
        "commits": [{"Author": {"email": 1, "id": 2}}, {"committer": {"email": 3}}],
        "author": [{"email": 4}],
        "email": 5,
        "author.email": 6,
    }
    run = run_filter(Redact(["author.email", "body.email"], remove=True), Message("a", body), colour=colour)
    assert run.forwarded.body == {"commits": [{"Author": {"id": 2}}, {"committer": {"email": 3}}], "author": [{}]}


def test_headers_are_redacted_too() -> None:
    """A name in the list also means the header of that name, in any case."""
    sent = Message("a", None, headers={"Authorization": "Bearer x", "tenant": "acme"})
    assert Redact(["authorization"], mask="***").transform(sent).headers == {"Authorization": "***", "tenant": "acme"}
    assert Redact(["headers.authorization"], remove=True).transform(sent).headers == {"tenant": "acme"}


@pytest.mark.parametrize("filter", [Redact(["email"]), Redact(["email"], remove=True)], ids=["mask", "remove"])
def test_a_message_without_these_fields_is_the_same_message(filter: Redact) -> None:
    """The filter copies only what it changes, so a message that it has already seen passes as it is."""
    plain = Message("a", {"list": [{"id": 1}], "at": datetime.date(2026, 1, 2), "t": (1, 2), "s": {1}}, headers={"h": "x"})
    assert filter.transform(plain) is plain
    once = filter.transform(Message("a", {"email": "x", "large": plain.body}))
    assert once.body["large"] is plain.body
    assert filter.transform(once) is once


class Card(BaseModel):
    email: str = "ada@example.org"


@dataclasses.dataclass
class Plain:
    email: str = "ada@example.org"


@pytest.mark.parametrize("body", [Card(), Plain(), {"card": Card()}, [Plain()]], ids=repr)
def test_a_field_of_a_model_is_not_passed_over(body: Any) -> None:
    """The fields of an object cannot be replaced, so the message is refused rather than passed on with them."""
    with pytest.raises(Rejected, match="put Redact in front of Validate") as caught:
        body_of(Redact(["email"]), body)
    assert "ada" not in str(caught.value)


def test_in_front_of_validate_it_masks_what_the_model_gets() -> None:
    """The order that the error suggests works."""
    run = run_filter(Pipeline(Redact(["email"]), Validate({">": Card})), Message("a", {"email": "ada@example.org"}))
    assert run.forwarded.body == Card(email=MASKED)


def test_other_mappings_are_tables() -> None:
    """A mapping that is not a dict is redacted as well."""
    assert body_of(Redact(["email"]), MappingProxyType({"email": 1, "id": 2})) == {"email": MASKED, "id": 2}


def test_a_body_that_holds_itself_is_refused() -> None:
    """A body without an end is refused with a reason."""
    body: list[Any] = []
    body.append(body)
    with pytest.raises(Rejected, match="levels"):
        body_of(Redact(["email"]), body)


@table(
    ("settings", "says"),
    [
        ({"names": "email"}, "it is a list of names"),
        ({"names": []}, "nothing to do"),
        ({"names": [5]}, "it is a list of names"),
        ({"names": 5}, "it is a list of names"),
        ({"names": ["commits[].email"]}, "write the last part of the path"),
        ({"names": ["*_token"]}, "is not a name"),
        ({"names": ["email"], "mask": None}, "Redact.mask"),
        ({"names": ["email"], "mask": "two\nlines"}, "CR, LF"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: Any, says: str) -> None:
    """A name that could never be found is an error, because the secret would get through."""
    with pytest.raises(PipebusError) as caught:
        Redact(**settings)
    assert says in str(caught.value)


def test_a_file_can_use_it(harness: Harness, tmp_path: Path) -> None:
    """In a config file its settings are the same, and a wrong name is an error of the file."""
    path = tmp_path / "bus.toml"
    path.write_text('version = 1\n[[pipelines]]\nfilters = [{ use = "redact", names = ["email"], mask = "x" }]\n')
    bus = harness.start(Bus.from_config(path))
    inbox = bus.subscribe("a", name="inbox")
    bus.publish("a", [{"email": 1}])
    assert inbox.receive(timeout=1.0).body == [{"email": "x"}]
    path.write_text('version = 1\n[[pipelines]]\nfilters = [{ use = "redact", names = ["*.email"] }]\n')
    with pytest.raises(ConfigError, match="is not a name"):
        Bus.from_config(path)


# --- the model ----------------------------------------------------------------------------------------------------------

NAMES = ["email", "CARD", "author.email", "body.card", "headers.email", "list.card", "nobody"]
KEYS = ["email", "Email", "card", "author", "list", "id", 5]


def random_body(chance: random.Random, depth: int = 4) -> Any:
    """Tables and lists of tables and lists, and values of all kinds."""
    kind = chance.randrange(8 if depth else 4)
    if kind < 4:
        return chance.choice([None, True, 7, 1.5, "text", MASKED, b"bytes", datetime.date(2026, 1, 2)])
    inside = [random_body(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 4:
        return chance.choice([list, tuple])(inside)
    table = dict(zip(chance.sample(KEYS, len(inside)), inside, strict=True))
    return MappingProxyType(table) if kind == 5 else table


def oracle(value: Any, names: list[str], mask: str | None, path: str) -> Any:
    """What is left of a value; `mask=None` removes."""
    if isinstance(value, (list, tuple)):
        return [oracle(one, names, mask, path) for one in value]
    if not isinstance(value, (dict, MappingProxyType)):
        return value
    found = {}
    for key, inner in value.items():
        here = f"{path}.{key}".lower()
        if not any(here.endswith(f".{name.lower()}") for name in names):
            found[key] = oracle(inner, names, mask, here)
        elif mask is not None:
            found[key] = mask
    return found


@scaled(300, 10_000)
def test_it_leaves_what_an_oracle_of_ten_lines_leaves(count: int) -> None:
    """Random bodies and headers, of which neither the given one nor what has no such field is copied or changed."""
    for seed in range(count):
        chance = random.Random(seed)
        names, remove = chance.sample(NAMES, chance.randrange(1, 4)), chance.random() < 0.3
        mask = chance.choice([MASKED, "***"])
        body, headers = random_body(chance), {str(key): "v" for key in chance.sample(KEYS[:6], chance.randrange(4))}
        message, before = Message("a", body, headers), repr(body)
        found = Redact(names, mask, remove).transform(message)
        left = oracle(body, names, None if remove else mask, ".body")
        assert oracle(found.body, [], None, "") == left, f"seed {seed}"
        assert found.headers == oracle(headers, names, None if remove else mask, ".headers"), f"seed {seed}"
        assert repr(body) == before, f"seed {seed}"
        if left == oracle(body, [], None, ""):
            assert found.body is body, f"seed {seed}"
        assert Redact(names, mask, remove).transform(found) is found, f"seed {seed}"


# --- its place ----------------------------------------------------------------------------------------------------------


def test_first_in_the_publish_chain_it_hides_a_secret_everywhere(tmp_path: Path) -> None:
    """Logs, dead letters of both sides, the store, spans and the page have the message without the secret."""
    for package in ("opentelemetry.sdk", "starlette"):
        needs(package)
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from pipebus.telemetry import instrument
    from pipebus.telemetry.sampler import sampler_of
    from pipebus.web.messages import Shown
    from pipebus.web.path import Paths

    def fail(message: Message) -> None:
        raise ValueError(f"cannot handle {message.body}")

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    bus = Bus(f"sqlite:///{tmp_path / 'bus.db'}")
    bus.use(Redact(["card"]), Pipeline(Log(body=True, headers=True), when("b", Tap(fail)), on_error="dead_letter"))
    bus.subscribe("*", fail, name="s", filters=[Log(body=True, headers=True)])
    instrument(bus, spans="filters", tracer_provider=provider)
    with captured_logs() as lines, bus:
        for subject in ("a", "b"):
            bus.publish(subject, {"id": 7, "cards": [{"card": SECRET}]}, headers={"Card": SECRET})
        wait_until(lambda: len(bus.dead_letters) == 2, "two dead letters")
        letters = bus.dead_letters.list()
        paths = Paths(bus, sampler_of(bus), Shown(bus))
        page = paths.find({"subject": "a", "body": {"card": SECRET}, "headers": {"card": SECRET}})
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    seen = [str(page), str(lines), str(letters), repr([letter.message for letter in letters]), repr(stored)]
    seen += [span.to_json() for span in spans.get_finished_spans()]
    assert [text for text in seen if SECRET in text] == []
    assert {letter.subscription for letter in letters} == {"publish", "s"}
    assert all(MASKED in text for text in seen[:5])


@pytest.mark.thorough
def test_it_keeps_every_law() -> None:
    """Redact keeps the laws that every filter must keep."""
    held = check_filter(Redact(["a", "email"]), examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}
