"""The forms in which a filter's settings can be written: durations and sizes."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipebus import PipelineError
from pipebus.filters import Expire
from pipebus.values import quantities
from tables import table
from values_helpers import CALM

# --- seconds -------------------------------------------------------------------------------------------------------------


@table(
    ("written", "seconds"),
    [
        (0, 0.0),
        (5, 5.0),
        (1.5, 1.5),
        (1e-9, 1e-9),
        ("0s", 0.0),
        ("500us", 0.0005),
        ("200ms", 0.2),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86_400.0),
        ("0.5d", 43_200.0),
        ("007s", 7.0),
        (" 5 s ", 5.0),
    ],
    ids=repr,
)
def test_durations(written: Any, seconds: float) -> None:
    """A number is in seconds, a text has a unit, and the result is a float."""
    found = quantities.seconds(written, "Expire.ttl")
    assert found == pytest.approx(seconds)
    assert type(found) is float


FORM = 'it is a number of seconds, or text such as "200ms", "5s", "10m"'
UNITS = "there are us, ms, s, m, h, d"


@table(
    ("written", "says"),
    [
        ("5", FORM),
        ("", FORM),
        ("s", FORM),
        ("5 s s", FORM),
        ("-5s", FORM),
        ("+5s", FORM),
        ("1e3s", FORM),
        (".5s", FORM),
        ("5.s", FORM),
        ("1_000s", FORM),
        ("1,5s", FORM),
        ("٥s", FORM),  # an Arabic digit five
        ("infs", FORM),
        ("1m30s", FORM),
        (None, FORM),
        (True, FORM),
        (b"5s", FORM),
        ([5], FORM),
        (Decimal(5), FORM),
        ("5 fortnights", f'unknown unit "fortnights"; {UNITS}'),
        ("5S", f'unknown unit "S"; {UNITS}'),
        ("5min", f'unknown unit "min"; {UNITS}'),
        ("5MiB", f'unknown unit "MiB"; {UNITS}'),
        (-1, "it is at least 0 seconds, and finite"),
        (-0.001, "it is at least 0 seconds, and finite"),
        (math.nan, "it is at least 0 seconds, and finite"),
        (math.inf, "it is at least 0 seconds, and finite"),
        (-math.inf, "it is at least 0 seconds, and finite"),
        ("9" * 400 + "s", "it is at least 0 seconds, and finite"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_bad_durations_are_refused_word_by_word(written: Any, says: str) -> None:
    """The error names the setting, what was written and what is wanted."""
    with pytest.raises(PipelineError) as refused:
        quantities.seconds(written, "Expire.ttl")
    assert str(refused.value) == f"Expire.ttl={written!r}: {says}"


@pytest.mark.parametrize("read", [quantities.seconds, quantities.size])
def test_a_number_beyond_all_bounds_is_refused(read: Any) -> None:
    """The error is not one of Python's own and does not print four hundred digits."""
    with pytest.raises(PipelineError, match=r"^Filter\.setting") as refused:
        read(10**400, "Filter.setting")
    assert len(str(refused.value)) < 200


def test_bounds_of_durations() -> None:
    """`least` is allowed itself, `above` is not; the error says which bound it was."""
    assert quantities.seconds(2, "X.y", least=2.0) == 2.0
    assert quantities.seconds("3s", "X.y", above=2.0) == 3.0
    with pytest.raises(PipelineError) as low:
        quantities.seconds("1s", "X.y", least=2.0)
    assert str(low.value) == "X.y='1s': it is at least 2 seconds, and finite"
    with pytest.raises(PipelineError) as equal:
        quantities.seconds(2, "X.y", above=2.0)
    assert str(equal.value) == "X.y=2: it is greater than 2 seconds, and finite"


# --- sizes ---------------------------------------------------------------------------------------------------------------


@table(
    ("written", "size"),
    [
        (0, 0),
        (1024, 1024),
        (64.0, 64),
        (2**53 + 1, 2**53 + 1),
        ("0B", 0),
        ("512B", 512),
        ("500kB", 500_000),
        ("2MB", 2_000_000),
        ("1GB", 10**9),
        ("64KiB", 65_536),
        ("1MiB", 1_048_576),
        ("1.5KiB", 1536),
        ("1GiB", 2**30),
        (" 1 MiB ", 1_048_576),
    ],
    ids=repr,
)
def test_sizes(written: Any, size: int) -> None:
    """A whole number is in bytes, a text has a decimal or binary unit, and the result is an exact int."""
    found = quantities.size(written, "Bus.max_message_bytes")
    assert found == size
    assert type(found) is int


SIZE_FORM = 'it is a whole number of bytes, or text such as "64KiB", "1MiB"'
WHOLE = "it is a whole number of bytes, at least 0"
SIZE_UNITS = "there are B, kB, MB, GB, KiB, MiB, GiB"


@table(
    ("written", "says"),
    [
        ("64", SIZE_FORM),
        ("", SIZE_FORM),
        ("-1B", SIZE_FORM),
        (None, SIZE_FORM),
        (True, SIZE_FORM),
        (b"1B", SIZE_FORM),
        ("64KB", f'unknown unit "KB"; {SIZE_UNITS}'),
        ("64kib", f'unknown unit "kib"; {SIZE_UNITS}'),
        ("5s", f'unknown unit "s"; {SIZE_UNITS}'),
        (-1, WHOLE),
        (1.5, WHOLE),
        ("0.5B", WHOLE),
        ("0.3KiB", WHOLE),
        (math.inf, WHOLE),
        (math.nan, WHOLE),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_bad_sizes_are_refused_word_by_word(written: Any, says: str) -> None:
    """The error names the setting, what was written and what is wanted."""
    with pytest.raises(PipelineError) as refused:
        quantities.size(written, "Bus.max_message_bytes")
    assert str(refused.value) == f"Bus.max_message_bytes={written!r}: {says}"


def test_least_size() -> None:
    """A setting may have a lower bound of its own."""
    assert quantities.size(10, "X.y", least=10) == 10
    with pytest.raises(PipelineError) as small:
        quantities.size("9B", "X.y", least=10)
    assert str(small.value) == "X.y='9B': it is a whole number of bytes, at least 10"


# --- whatever is written ---------------------------------------------------------------------------------------------------


@CALM
@given(
    st.one_of(
        st.text(max_size=12), st.floats(), st.integers(), st.none(), st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,3})?[a-zA-Z]{1,3}")
    )
)
def test_whatever_is_written_is_read_or_refused(written: Any) -> None:
    """The only error is a refusal, and no value is negative or endless."""
    for read in (quantities.seconds, quantities.size):
        try:
            found = read(written, "X.y")
        except PipelineError:
            continue
        assert 0 <= found < math.inf


def test_a_filter_reads_its_settings_so() -> None:
    """Code may write what a config file writes, and a mistake is found where the filter is made."""
    assert Expire("10m").ttl == 600.0
    with pytest.raises(PipelineError, match=r"^Expire\.ttl='10 minutes': unknown unit"):
        Expire("10 minutes")
