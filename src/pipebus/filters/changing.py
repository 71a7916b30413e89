"""What filters share that change messages: their order with those that sign and verify them."""

from __future__ import annotations

from collections.abc import Mapping

from pipebus.pipeline.shapes import Transform

WHY = "a message that has changed in what is signed no longer fits its signature, and is refused"


class Changing(Transform):
    """A filter that may change what `Sign` signs: the body, headers, the subject or the id."""

    follows: Mapping[str, str] = {"verified": WHY}
    precedes: Mapping[str, str] = {"signed": WHY}
