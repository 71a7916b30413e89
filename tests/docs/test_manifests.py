"""The YAML of a page is YAML, and its numbers fit the program next to it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages import BLOCKS, Block

from missing import needs

pytestmark = pytest.mark.thorough  # it needs a package of the extra `ci`


def documents(block: Block) -> list[Any]:
    needs("yaml")
    import yaml  # a machine without it skips the test

    return list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in BLOCKS if block.language == "yaml"])
def test_the_yaml_of_a_page_can_be_read(block: Block) -> None:
    """A newcomer can hand each file to its program."""
    assert all(isinstance(document, dict) for document in documents(block))


def test_the_grace_period_is_longer_than_the_drain_time() -> None:
    """A worker that is stopped by the manifest as it is shown has the time that it was promised."""
    named = {block.file: block for block in BLOCKS if block.page == "docs/howto/kubernetes.md"}
    [deployment] = documents(named["deployment.yaml"])
    [timeout] = re.findall(r"bus\.run\(timeout=(\d+)\)", named["worker.py"].text)

    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > int(timeout)
