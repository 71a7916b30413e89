"""The tables of what engines promise are what the contract has found; each run of the contract checks that it still is."""

from __future__ import annotations

import capabilities
import pytest
from pages import TEXTS

import missing
from pipebus.testing import contract
from pipebus.transports.base import Capabilities


@pytest.mark.parametrize("page", capabilities.PAGES)
def test_a_page_has_the_table_that_the_findings_make(page: str) -> None:
    """After a change of the findings or of the rows, run `python docs/capabilities.py`."""
    missing.needs("nats")
    assert TEXTS[page] == capabilities.page(page)


def test_each_row_was_looked_at_on_each_engine() -> None:
    """No cell is a guess. After a new row, run `python docs/capabilities.py run`."""
    found = {test: list(engines) for test, engines in capabilities.findings().items()}
    assert found == {test: list(capabilities.ENGINES) for test in sorted(capabilities.TESTS)}


def test_each_row_names_a_test_of_the_contract() -> None:
    groups = [group for name, group in vars(contract).items() if name.startswith("Test")]
    assert [test for test in capabilities.TESTS if not any(hasattr(group, test) for group in groups)] == []


def test_each_capability_has_a_row() -> None:
    """What a bus can require is in the tables."""
    told = {name for row in capabilities.ROWS for name in (*row.refusals, row.declared) if name}
    assert told == set(Capabilities.__struct_fields__)
