"""Keys and messages for the tests of `Sign` and `Verify`."""

from __future__ import annotations

import math
from typing import Any, Final

from hypothesis import strategies as st

from pipebus import Message
from pipebus.filters import Sign

KEY: Final = "a key for the tests, 0123456789"
OLD: Final = "the key of last year, 0123456789"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=6)
names = st.sampled_from(["a", "b", "tenant", "Tenant", "x-ü"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
times = st.floats(0, 2**32) | st.integers(0, 2**32) | st.sampled_from([0.0, 1e9, 1_767_225_599.999_999_9, math.pi * 5e8])
messages: st.SearchStrategy[Message[Any]] = st.builds(
    Message,
    st.sampled_from(["a", "a.b", "orders.größe"]),
    values | st.binary(max_size=8),
    headers=st.dictionaries(names, texts, max_size=3),
    id=texts.filter(bool),
    time=times,
    key=st.none() | texts,
    ttl=st.none() | st.floats(1e-3, 1e9) | st.integers(1, 10**6),
    reply_to=st.none() | st.sampled_from(["replies", "_reply.b.1"]),
    correlation_id=st.none() | texts,
    causation_id=st.none() | texts,
)


def signed(body: Any = None, *, subject: str = "a", by: str | bytes = KEY, **fields: Any) -> Message[Any]:
    """A message with a signature."""
    return Sign(by).transform(Message(subject, body, **fields))
