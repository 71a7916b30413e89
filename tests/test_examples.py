"""Every example runs as its first lines say, says what it should, and ends by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

SAYS = {
    "01_first_bus.py": """
billing: 4.20 for tea
billing: 7.50 for honey
shipping: tea, from orders.created
shipping: honey, from orders.created
the second order: Receipt(mailboxes=2, duplicate=False)
the third message: Receipt(mailboxes=0, duplicate=False)
billing accepted 2 and acknowledged 2
shipping accepted 2 and acknowledged 2
""",
    "02_filters.py": """
sales.bread Receipt(mailboxes=1, duplicate=False)
sales.clock Receipt(mailboxes=1, duplicate=False)
sales.bag Dropped(reason='nothing to pay', by='not_for_free')
refunds.cup Receipt(mailboxes=1, duplicate=False)
sales.pear rejected by Validate: price: Input should be a valid number, unable to parse string as a number
the book
(no answer, so once more)
sales.bread Sale(item='bread', price=3.5)
sales.clock Sale(item='clock', price=108.0)
refunds.cup a cup that leaks, signed by the manager
the road of a message on
sales.clock
publish chain
journal examples/02_filters.py:*
branch("refunds.*") not taken: sales.clock does not match examples/02_filters.py:*
Validate(models={'sales.*': '__main__:Sale'}) examples/02_filters.py:*
when(expensive) asked for each message examples/02_filters.py:*
Discount(percent=10) examples/02_filters.py:*
not_for_free examples/02_filters.py:*
mailboxes
book on sales.*, refunds.* [pool, 1 worker; block at 10,000, 5 s] examples/02_filters.py:*
twice examples/02_filters.py:*
-> write
""",
}


def run(example: Path) -> subprocess.CompletedProcess[str]:
    """The example in a process of its own, from the project's folder, with this tree's package."""
    return subprocess.run(
        [sys.executable, "-W", "error", example.relative_to(ROOT)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(output: str) -> list[str]:
    """The lines that say something, spaced by single blanks, without line numbers of the example itself."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    return [re.sub(r"(examples/\w+\.py):\d+", r"\1:*", line) for line in lines if line]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_what_it_promises(example: Path) -> None:
    """Whoever runs an example sees exactly this, no warning beside it, and gets the prompt back."""
    done = run(example)

    assert done.stderr == ""
    assert done.returncode == 0
    assert said(done.stdout) == said(SAYS[example.name])


def test_no_example_is_forgotten() -> None:
    """What is looked at here is what lies in the folder."""
    assert [path.name for path in EXAMPLES] == sorted(SAYS)
