"""Packages of other people that parts of pipebus need, and that may not be installed."""

from __future__ import annotations


def install(extra: str) -> str:
    """
    Return the command that installs an extra, for the texts of errors.

    There is no release yet, so it is a command for a checkout.
    """
    return f"pip install -e '.[{extra}]' in a checkout of pipebus"
